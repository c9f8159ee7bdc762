from pathlib import Path

import pytest

from data_curation.readers import RawDocument, read_source
from data_curation.readers.books import detokenised
from data_curation.readers.licenses import license_name

BOOK = (
    "The Project Gutenberg EBook of X\r\n\r\nTitle: Fever\r\n\r\nCharacter set encoding: ISO-8859-1\r\n\r\n"
    "*** START OF THIS PROJECT GUTENBERG EBOOK FEVER ***\r\n\r\n"
    "Produced by A. Volunteer\r\nand others\r\n\r\n"
    "A temp\xe9rature of 39\r\ndegrees.\r\n\r\n  Verse one,\r\n  verse two.\r\n\r\n"
    "*** END OF THIS PROJECT GUTENBERG EBOOK FEVER ***\r\n\r\nLicence text\r\n"
)


def only(tmp_path: Path, reader: str, content: bytes, **options: str) -> RawDocument:
    (tmp_path / "a.txt").write_bytes(content)
    (document,) = read_source(tmp_path / "a.txt", reader, options)
    assert isinstance(document, RawDocument), document
    return document


def test_a_book_without_its_licence_and_with_whole_paragraphs(tmp_path: Path) -> None:
    document = only(tmp_path, "gutenberg", BOOK.encode("iso-8859-1"))
    assert document.title == "Fever"
    assert document.text == "A température of 39 degrees.\n\n  Verse one,\n  verse two."


def test_wikitext_articles_are_split_and_written_as_english(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        " = One = \n \n Weighs 1 @.@ 5 kg . \n = = Sub = = \n x \n = Two = \n y \n"
    )
    texts = [r.text for r in read_source(tmp_path / "a.txt", "wikitext", {}) if isinstance(r, RawDocument)]
    assert texts == ["# One\n\nWeighs 1.5 kg.\n\n## Sub\n\nx", "# Two\n\ny"]


@pytest.mark.parametrize(
    ("spaced", "written"),
    [
        ('the " <unk> " , and ( 24 in ) .', 'the "<unk>", and (24 in).'),
        ("role @-@ playing , 1 @,@ 000 ; it 's", "role-playing, 1,000; it's"),
        ("p < 0 @.@ 05 : yes", "p < 0.05: yes"),
    ],
)
def test_detokenised(spaced: str, written: str) -> None:
    assert detokenised(spaced) == written


def test_plain_text_in_a_named_encoding(tmp_path: Path) -> None:
    assert only(tmp_path, "text", "38 °C".encode("latin-1"), encoding="latin-1").text == "38 °C"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("http://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by-nc-nd/3.0/us", "CC-BY-NC-ND-3.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("distributed under the terms of the Creative Commons Attribution License", "CC-BY"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike", "CC-BY-NC-SA"),
        ("All rights reserved", ""),
    ],
)
def test_licences_have_one_name_each(text: str, name: str) -> None:
    assert license_name(text) == name
