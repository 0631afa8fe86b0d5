# docker build -t geomatch .                            CPU
# docker build --build-arg VARIANT=cuda -t geomatch .   CUDA; run it with --gpus all
# docker run --rm -v "$PWD:/work" geomatch match a.jpg b.jpg --out result
FROM python:3.11-slim-bookworm
ARG VARIANT=cpu
ARG EXTRAS=transformers,report,hloc,register,geo,heif,gguf,app

# what opencv-python loads; Debian keeps one version of each
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/geomatch
# torch alone first: it is the largest layer, and changes least. PyPI's build for Linux brings CUDA
COPY constraints.txt ./
RUN case "$VARIANT" in \
        cpu) pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu ;; \
        cuda) pip install --no-cache-dir -c constraints.txt torch ;; \
        *) echo "VARIANT is cpu or cuda, not $VARIANT" >&2; exit 2 ;; \
    esac

COPY pyproject.toml README.md LICENSE ./
COPY geomatch geomatch
COPY keypoints keypoints
COPY estimators estimators
COPY benchmarks benchmarks
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"

RUN useradd --create-home --uid 1000 geomatch && mkdir /work && chown geomatch /work
USER 1000
WORKDIR /work
# `geomatch app --host 0.0.0.0` listens here
EXPOSE 7860
ENTRYPOINT ["geomatch"]
CMD ["--help"]
