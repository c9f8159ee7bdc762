import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_curation.clean import normalise
from data_curation.readers import BadRecord, RawDocument, read_source

GOLDEN = "BP <140 mmHg or eGFR <60; target HbA1c >7%"
ESCAPED = GOLDEN.replace("<", "&lt;").replace(">", "&gt;")

JATS = f"""<article><front><article-meta><article-id pub-id-type="pmc">PMC1</article-id>
<title-group><article-title>Targets in CO<sub>2</sub> and 10<sup>9</sup>/L</article-title></title-group>
<abstract><p>{ESCAPED}</p></abstract></article-meta></front>
<body><sec><title>Methods</title><p>As shown [<xref ref-type="bibr" rid="b1">12</xref>], mortality
fell<sup><xref ref-type="bibr" rid="b2">3</xref></sup> by
<inline-formula><tex-math>\\begin{{document}}$x^2$\\end{{document}}</tex-math></inline-formula> units.</p>
<table-wrap><label>Table 1</label><caption><p>Doses</p></caption><table>
<tr><th rowspan="2">Drug</th><th colspan="2">Dose</th></tr><tr><th>low</th><th>high</th></tr>
<tr><td>A</td><td>&lt;5 mg</td><td>10 mg</td></tr></table></table-wrap>
<fig><label>Figure 2</label><caption><p>Survival.</p></caption></fig></sec></body>
<back><ref-list><ref><mixed-citation>Gone</mixed-citation></ref></ref-list></back></article>"""
MEDLINE = f"""<PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>7</PMID><Article>
<ArticleTitle>T</ArticleTitle><Abstract><AbstractText Label="RESULTS">{ESCAPED}</AbstractText></Abstract>
</Article></MedlineCitation></PubmedArticle></PubmedArticleSet>"""
HTML = f"<html><body><nav>Menu</nav><main><h1>G</h1><p>{ESCAPED}</p><ul><li>a</li></ul></main></body></html>"
CASES = {
    "jats": ("a.nxml", JATS),
    "medline": ("a.xml", MEDLINE),
    "html": ("a.html", HTML),
    "markdown": ("a.md", f"# G\n\n{GOLDEN}\n"),
    "jsonl": ("a.jsonl", json.dumps({"id": "1", "text": GOLDEN})),
    "medquad": (
        "a.xml",
        f"<Document><QAPairs><QAPair><Question>Q?</Question><Answer>{ESCAPED}</Answer></QAPair></QAPairs></Document>",
    ),
    "cnxml": ("a.cnxml", f"<document><title>T</title><content><para>{ESCAPED}</para></content></document>"),
}


def read(tmp_path: Path, name: str, content: str | bytes, reader: str) -> list[RawDocument | BadRecord]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_source(path, reader, {}))


@pytest.mark.parametrize("reader", CASES)
def test_clinical_comparators_survive_every_reader(reader: str, tmp_path: Path) -> None:
    (document,) = read(tmp_path, *CASES[reader], reader)
    assert isinstance(document, RawDocument)
    assert GOLDEN in normalise(document.text)


def test_jats_structure(tmp_path: Path) -> None:
    (document,) = read(tmp_path, "a.nxml", JATS, "jats")
    assert isinstance(document, RawDocument)
    assert document.title == "Targets in CO₂ and 10⁹/L"
    for expected in (
        "## Methods",
        "As shown [12], mortality fell [3] by $x^2$ units.",
        "**Table 1.** Doses",
        "| Drug | Dose: low | Dose: high |\n| --- | --- | --- |\n| A | <5 mg | 10 mg |",
        "**Figure 2.** Survival.",
    ):
        assert expected in document.text
    assert "Gone" not in document.text


def test_an_archive_is_read_like_its_files(tmp_path: Path) -> None:
    path = tmp_path / "all.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number in range(3):
            member = tarfile.TarInfo(f"x/{number}.nxml")
            member.size = len(JATS.encode())
            archive.addfile(member, io.BytesIO(JATS.encode()))
    assert sum(isinstance(record, RawDocument) for record in read_source(path, "jats", {})) == 3
    path.write_bytes(path.read_bytes()[:-200])
    *_, last = read_source(path, "jats", {})
    assert isinstance(last, BadRecord)


BOMB = '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z SYSTEM "file:///etc/passwd">]><article>&z;</article>'


@pytest.mark.parametrize(
    ("reader", "name", "content", "reason"),
    [
        ("jats", "a.xml", JATS[:300], "not well-formed"),
        ("jats", "a.xml", JATS.encode().replace(b"Doses", b"Dos\xff\xfees"), "not well-formed"),
        ("jats", "a.xml", BOMB, "entities"),
        ("medline", "a.xml", BOMB, "entities"),
        ("medline", "a.xml", MEDLINE[:-30], "not well-formed"),
        ("jats", "a.xml", "<document/>", "no JATS article"),
        ("medline", "a.xml", "<PubmedArticleSet/>", "no PubmedArticle"),
        ("jats", "a.xml", b"", "empty file"),
        ("html", "a.html", "<p>38 °C</p>".encode("latin-1"), "not UTF-8"),
        ("markdown", "a.md", b"\xff\xfe bad", "not UTF-8"),
        ("jsonl", "a.jsonl", '{"id": 1}', "no text in field 'text'"),
        ("jsonl", "a.jsonl", '{"id": 1', "not JSON"),
        ("parquet", "a.parquet", "no parquet", "damaged"),
        ("jsonl", "a.jsonl.gz", "no gzip", "damaged"),
    ],
)
def test_what_cannot_be_read_is_named(
    reader: str, name: str, content: str | bytes, reason: str, tmp_path: Path
) -> None:
    *_, bad = read(tmp_path, name, content, reader)
    assert isinstance(bad, BadRecord)
    assert reason in bad.reason


@given(
    comparator=st.sampled_from("<>≤≥±=~"),
    value=st.decimals(0, 5000, places=1),
    unit=st.sampled_from(["mmHg", "%", "µg/kg", "×10⁹/L", "°C", "mL/min/1.73 m²", "Å"]),
    low=st.integers(0, 50),
    brackets=st.sampled_from(["()", "[]", "{}"]),
)
def test_normalising_leaves_clinical_statements_alone(
    comparator: str, value: object, unit: str, low: int, brackets: str
) -> None:
    left, right = brackets
    text = f"if X {comparator}{value} {unit} {left}95% CI {low}–{low + 3}; p<0.001{right}, not <b> or >c"
    assert normalise(text) == text


def test_normalising_repairs_what_is_broken() -> None:
    assert normalise("5 Âµg  of\u00a0drug\u200b\x07\n\n\n\n- a\n  - b ") == "5 µg of drug\n\n- a\n  - b"
