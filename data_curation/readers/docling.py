"""PDF files by docling, whose models find headings, tables and reading order."""

import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from data_curation.readers.base import BadRecord, RawDocument, read_whole
from meditron.config.check import require
from meditron.errors import EnvironmentMissingError

if TYPE_CHECKING:
    from docling.document_converter import DocumentConverter
    from docling_core.types.doc import DoclingDocument

DEFAULT_SECONDS = 300.0
_UNREAD_FORMULA = "<!-- formula-not-decoded -->"


def read_docling(
    name: str, handle: IO[bytes], options: Mapping[str, Any]
) -> Iterator[RawDocument | BadRecord]:
    """A PDF as docling's models see it, page headers and footers left out.

    A file that takes longer than the option `seconds` (default 300) is given up; `artifacts_path` is the
    folder of docling's models, and `ocr` reads pages that are images.

    Raises:
        ConfigError: an option has no such value.
        EnvironmentMissingError: docling or its models are not here.
    """
    seconds = float(options.get("seconds", DEFAULT_SECONDS))
    require(seconds > 0, "options of reader docling: seconds", seconds, "must be positive")
    ocr, folder = options.get("ocr", False), options.get("artifacts_path")
    require(isinstance(ocr, bool), "options of reader docling: ocr", ocr, "must be true or false")
    is_folder = folder is None or Path(folder).is_dir()
    require(is_folder, "options of reader docling: artifacts_path", folder, "is no folder")
    content = read_whole(handle)
    converter = load_converter(seconds, None if folder is None else str(folder), ocr)
    from docling.datamodel.base_models import ConversionStatus, DocumentStream

    stream = DocumentStream(name=Path(name).name, stream=BytesIO(content))
    try:
        result = converter.convert(stream, raises_on_error=False)
    except Exception as error:  # whatever its models and parsers raise is a fault of this file
        yield BadRecord(file=name, record=name, reason=f"docling cannot read it ({_line(error)})")
        return
    if result.status is ConversionStatus.SUCCESS:
        yield docling_document(name, result.document)
        return
    reasons = "; ".join(_line(error.error_message) for error in result.errors) or result.status.value
    if result.status is ConversionStatus.PARTIAL_SUCCESS:
        reasons = f"it has read a part only, in {seconds:g} s: {reasons}"
    yield BadRecord(file=name, record=name, reason=f"docling cannot read it ({reasons})")


def _line(message: object) -> str:
    """A message on one line."""
    return " ".join(str(message).split())[:300]


@cache
def load_converter(seconds: float, folder: str | None, ocr: bool) -> "DocumentConverter":
    """Docling with its models, once per process.

    Args:
        seconds: most time for a document.
        folder: where its models are. Default: what the hub has left in its cache, or sends.
        ocr: whether pages that are images are read.

    Raises:
        EnvironmentMissingError: docling or its models are not here.
    """
    if importlib.util.find_spec("docling") is None:
        raise EnvironmentMissingError(
            "curate.sources: the reader docling needs docling; install it with: "
            "pip install 'meditron[docling]'"
        )
    from docling.datamodel.base_models import InputFormat
    from docling.datamodel.pipeline_options import PdfPipelineOptions
    from docling.document_converter import DocumentConverter, PdfFormatOption

    pipeline = PdfPipelineOptions(do_ocr=ocr, document_timeout=seconds, artifacts_path=folder)
    converter = DocumentConverter(
        allowed_formats=[InputFormat.PDF],
        format_options={InputFormat.PDF: PdfFormatOption(pipeline_options=pipeline)},
    )
    try:
        converter.initialize_pipeline(InputFormat.PDF)
    except (OSError, ValueError, ImportError) as error:  # a network that does not answer is an OSError too
        raise EnvironmentMissingError(
            f"curate.sources: the reader docling finds no models in {folder or 'the cache of this machine'} "
            f"({_line(error)}); where there is internet, run: docling-tools models download -o FOLDER, and "
            "set the source's option artifacts_path to that folder"
        ) from error
    return converter


def docling_document(name: str, document: "DoclingDocument") -> RawDocument:
    """What docling has read as markdown: captions before tables and figures, formulae as LaTeX."""
    from docling_core.types.doc import SectionHeaderItem, TitleItem

    headings = [item.text for item, _ in document.iterate_items() if isinstance(item, TitleItem)]
    first = next(iter(document.iterate_items()), None)
    if first is not None and isinstance(first[0], SectionHeaderItem):
        headings.append(first[0].text)  # its models often take a title for the heading of a section
    text = document.export_to_markdown(
        escape_html=False,  # <140 mmHg is no tag
        escape_underscores=False,
        image_placeholder="",
        compact_tables=True,
    )
    return RawDocument(
        id=name,
        text=text.replace(_UNREAD_FORMULA, "[formula]").replace("&#124;", "\\|"),
        title=headings[0] if headings else "",
        metadata={"file": name, "pages": len(document.pages)},
    )
