"""What later stages read of a corpus beside its text."""

import json
from pathlib import Path

from meditron.errors import InputError


def source_kinds(corpus: Path) -> dict[str, str]:
    """Source to `medical` or `general`, from the corpus's statistics.

    Raises:
        InputError: the statistics are missing or of another form.
    """
    path = corpus / "stats.json"
    try:
        sources = json.loads(path.read_text(encoding="utf-8"))["sources"]
        return {name: source["kind"] for name, source in sources.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: does not give each source's kind ({error!r}); run `meditron curate` again"
        ) from error
