"""Run as a program: a PDF on standard input, its pages as JSON on standard output.

A process of its own, since a hostile file can hang or crash the library. Imports nothing of the
project, so that starting it is quick.
"""

import json
import resource
import sys
from typing import Any


def extract(content: bytes) -> dict[str, Any]:
    """`pages` and `title`, or `error` or `missing`."""
    try:
        import pypdfium2  # an optional extra
    except ImportError:
        return {"missing": "pypdfium2"}
    try:
        document = pypdfium2.PdfDocument(content)
        pages = [page.get_textpage().get_text_range() for page in document]
        return {"pages": pages, "title": document.get_metadata_value("Title")}
    except pypdfium2.PdfiumError as error:
        encrypted = "password" in str(error).lower()
        return {"error": "is encrypted" if encrypted else f"is no readable PDF ({error})"}
    except (MemoryError, UnicodeDecodeError) as error:
        return {"error": f"cannot be read ({type(error).__name__})"}


def main() -> None:
    """Read, extract, write."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    json.dump(extract(sys.stdin.buffer.read()), sys.stdout)


if __name__ == "__main__":
    main()
