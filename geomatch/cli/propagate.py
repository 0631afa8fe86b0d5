"""``geomatch propagate``."""

import json
from pathlib import Path
from typing import Any

import rich_click as click

from geomatch.cli.logs import finish
from geomatch.cli.options import OVERWRITE, bundled, changed_config, descriptor_options, make_out
from geomatch.errors import ImageError

RECORD = "propagation.json"


@click.command()
@click.argument("edit", type=click.Path(path_type=Path))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("targets", metavar="TARGET...", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", required=True,
              help="Write a PNG per target here, and propagation.json.")  # fmt: skip
@OVERWRITE
@click.option("--descriptor", metavar="NAME", default="dift-tiny", show_default=True,
              help="A preset (`geomatch models`), or a diffusers model: folder or hub id. "
              "Those in patches match keypoints, dense ones pixels.")  # fmt: skip
@bundled(
    "given",
    dict,
    click.option("--estimator", metavar="NAME", default="usac_magsac", show_default=True,
                 help="usac_magsac, ransac, lmeds, rho, ..., kornia, poselib."),
    click.option("--threshold", type=float,
                 help="Largest error of an inlier, in pixels of the target. "
                 "[default: 3 for keypoints, 5 for pixels]"),
    click.option("--max-points", type=int, default=1000, show_default=True,
                 help="Keypoints or pixels below the edit."),
    click.option("--refine-homography/--no-refine-homography", default=True, show_default=True,
                 help="Refine by Lucas-Kanade to a fraction of a pixel."),
)  # fmt: skip
@descriptor_options()
def propagate(
    edit: Path, source: Path, targets: tuple[Path, ...], out: Path, descriptor: str, given: dict[str, Any]
) -> int:
    """Carry EDIT from SOURCE to every TARGET.

    EDIT is a picture of SOURCE's size, transparent but for what was painted.
    DIR/NAME.png is the TARGET of that name with the edit, and is removed where
    there is none; propagation.json has the homographies, and the reasons.

    Exit code 0: all targets have the edit, 1: some have not, 2: bad input or usage.
    """
    names = _names(edit, source, targets, out)
    make_out(out, (RECORD, *names))
    import numpy as np

    from geomatch.describers import dift_config
    from geomatch.dift import cached_extractor
    from geomatch.editing.edit import DENSE_THRESHOLD, EditResult, carry_edit, prepare_edit
    from geomatch.files import write_whole
    from geomatch.images import write_png
    from geomatch.pipeline import Pipeline
    from geomatch.progress import progress_bar
    from geomatch.provenance import record, versions
    from geomatch.types import EstimationFailure

    extractor = cached_extractor(changed_config(dift_config(descriptor)))
    seed = extractor.config.seed  # of the pixels drawn, too
    if given["threshold"] is None:
        given["threshold"] = DENSE_THRESHOLD if extractor.traits.dense else 3.0
    named = {name: given[name] for name in ("estimator", "threshold", "refine_homography")}
    pipeline = Pipeline(descriptor=extractor, **named)
    prepared = prepare_edit(edit, source, pipeline, given["max_points"], seed)
    (out / RECORD).unlink(missing_ok=True)  # it would describe other pictures than those made now
    rows: list[dict[str, Any]] = []
    for target, name in progress_bar(list(zip(targets, names, strict=True)), "targets", "image"):
        try:
            found = carry_edit(prepared, target)
        except ImageError as error:
            none = np.zeros((0, 2))
            found = EditResult(None, EstimationFailure(str(error)), none, none)
        if found.picture is None:
            (out / name).unlink(missing_ok=True)  # of an earlier run
        else:
            write_png(out / name, found.picture)
        geometry = found.homography
        rows.append({
            "target": str(target),
            "picture": name if found else None,
            "homography": geometry.matrix.tolist() if geometry else None,
            "reason": None if geometry else geometry.reason,
            "num_matches": len(found.points0),
            "num_inliers": geometry.num_inliers,
        })  # fmt: skip
    settings = {
        "edit": str(edit),
        "source": str(source),
        "descriptor": record(extractor),
        "estimator": record(pipeline.parts.estimator),
        "seed": seed,
        **{name: given[name] for name in ("max_points", "refine_homography")},
    }
    content = {"targets": rows, "settings": settings, "versions": versions()}
    write_whole(out / RECORD, json.dumps(content, indent=2, allow_nan=False) + "\n")
    for row in rows:
        if row["reason"]:
            reason = row["reason"].removeprefix(f"{row['target']}: ")
            click.echo(f"geomatch: {row['target']}: {reason}", err=True)
        else:
            agree = f"{row['num_inliers']} of {row['num_matches']} matches agree"
            click.echo(f"wrote       {out / row['picture']} ({agree})")
    failed = sum(row["picture"] is None for row in rows)
    what = f"{len(rows) - failed} of {len(rows)} targets have the edit"
    return finish(what, out / RECORD, whole=not failed)


def _names(edit: Path, source: Path, targets: tuple[Path, ...], out: Path) -> list[str]:
    """File names of the pictures, none of which may overwrite another or an input."""
    names = [f"{target.stem}.png" for target in targets]
    first: dict[str, Path] = {}
    for target, name in zip(targets, names, strict=True):
        other = first.setdefault(name.casefold(), target)  # to some file systems A.png is a.png
        if other is not target:
            both = f"{other} and {target} would both become {out / name}"
            raise click.UsageError(f"{both}; run the command once for each, with another --out")
        if any(path.resolve() == (out / name).resolve() for path in (edit, source, *targets)):
            raise click.UsageError(f"{out / name} is one of the images given; choose another --out")
    return names
