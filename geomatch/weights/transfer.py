"""One file over HTTP, which goes on where it was broken off; no two versions of it are ever mixed."""

from http.client import HTTPResponse
from pathlib import Path
from time import monotonic
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

STALL = 60.0  # seconds without a byte
SLOWEST = 1000.0  # bytes per second, from then on
LONGEST = 12 * 3600.0  # seconds in all


class _StaysEncrypted(HTTPRedirectHandler):
    """From https only to https; urllib offers no other way to say so."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if req.type == "https" and not newurl.startswith("https:"):
            raise OSError(f"{req.full_url} leads to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str, part: Path, name: str, known: bool) -> None:
    """Fill ``part``, or what is left of it; `OSError` or `HTTPException` when not all bytes came.

    Unless the checksum is ``known``, the server must say how long the file is.
    """
    note = part.with_name(part.name + ".version")
    version = note.read_text() if part.is_file() and note.is_file() else ""
    answer = _ask(url, part.stat().st_size if version else 0, version)
    with answer:
        done = part.stat().st_size if answer.status == 206 else 0
        length = answer.headers["Content-Length"]
        if length is None and not answer.chunked and not known:
            raise OSError("the server does not say how long the file is")
        if not done:
            note.unlink(missing_ok=True)
            if version := _version(answer):
                note.write_text(version)
        size = done + int(length) if length else None
        begun = monotonic()
        with (
            part.open("ab" if done else "wb") as file,
            tqdm(desc=name, total=size, initial=done, unit="B", unit_scale=True) as bar,
        ):
            while block := answer.read1(2**20):
                file.write(block)
                bar.update(len(block))
                passed, came = monotonic() - begun, file.tell() - done
                if passed > min(STALL + came / SLOWEST, LONGEST):
                    raise OSError(f"{came} bytes in {passed:.0f} s; try again to go on from there")
    if size is not None and part.stat().st_size != size:
        raise OSError(f"got {part.stat().st_size} of {size} bytes; try again to go on from there")
    note.unlink(missing_ok=True)


def _ask(url: str, done: int, version: str) -> HTTPResponse:
    """The whole file, status 200, or the rest after ``done`` bytes of the version, status 206."""
    opener = build_opener(_StaysEncrypted)
    if done:
        # If-Range: the whole file comes if it is another one by now
        headers = {"Range": f"bytes={done}-", "If-Range": version.partition("\n")[0]}
        try:
            answer: HTTPResponse = opener.open(Request(url, headers=headers), timeout=STALL)
            place = answer.headers["Content-Range"] or ""
            if answer.status == 200 or (place.startswith(f"bytes {done}-") and _version(answer) == version):
                return answer
            answer.close()
        except HTTPError as error:
            if error.code != 416:  # nothing is left to send, or the part is too long
                raise
    answer = opener.open(url, timeout=STALL)
    if answer.status != 200:
        answer.close()
        raise OSError(f"the server answered {answer.status} to a request for the file")
    return answer


def _version(answer: HTTPResponse) -> str:
    """ETag and length of the whole file; empty when the tag is weak, which promises no equal bytes."""
    tag = answer.headers["ETag"] or "W/"
    whole = (answer.headers["Content-Range"] or "").rpartition("/")[2] or answer.headers["Content-Length"]
    return "" if tag.startswith("W/") else f"{tag}\n{whole}"
