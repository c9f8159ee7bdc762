"""Structure that must survive: tables, figures, formulae, lists, citations, back matter."""
# ruff: noqa: E501 - XML reads better unbroken

from pathlib import Path

import pytest

from data_curation.readers import RawDocument, read_source

META = """<article article-type="research-article"><front><journal-meta><journal-title-group>
<journal-title>J Med</journal-title></journal-title-group></journal-meta><article-meta>
<article-id pub-id-type="pmid">12</article-id><article-id pub-id-type="doi">10.1/x</article-id>
<title-group><article-title>T</article-title></title-group><pub-date><year>2020</year></pub-date>
<permissions><license xmlns:x="http://www.w3.org/1999/xlink" x:href="http://creativecommons.org/licenses/by-nc/4.0/">
<license-p>free</license-p></license></permissions>"""


def jats(tmp_path: Path, body: str, rest: str = "", meta: str = "", **options: str) -> RawDocument:
    content = f"{META}{meta}</article-meta></front><body>{body}</body>{rest}</article>"
    (tmp_path / "a.nxml").write_text(content)
    (document,) = read_source(tmp_path / "a.nxml", "jats", options)
    assert isinstance(document, RawDocument), document
    return document


def body_of(document: RawDocument) -> str:
    return document.text.removeprefix("# T\n\n")


def test_what_is_known_of_an_article(tmp_path: Path) -> None:
    document = jats(tmp_path, "<p>x</p>")
    assert document.license == "CC-BY-NC-4.0"
    assert document.metadata == {
        "file": "a.nxml", "article_type": "research-article", "journal": "J Med", "pmid": "12",
        "doi": "10.1/x", "year": "2020",
    }  # fmt: skip


def test_abstracts_that_say_something_are_kept_with_their_headings(tmp_path: Path) -> None:
    meta = """<abstract><sec><title>Aim</title><p>a</p></sec></abstract>
    <abstract abstract-type="editor"><title>Editors' Summary</title><sec><title>Why?</title><p>b</p></sec></abstract>
    <abstract abstract-type="toc"><p>advertised</p></abstract>"""
    text = body_of(jats(tmp_path, "<sec><title>Methods</title><p>c</p></sec>", meta=meta))
    assert text == "## Abstract\n\n### Aim\n\na\n\n## Editors' Summary\n\n### Why?\n\nb\n\n## Methods\n\nc"


def test_figures_tables_and_abbreviations_outside_the_body(tmp_path: Path) -> None:
    rest = """<back><ack><p>thanks</p></ack><sec><title>Figures and Tables</title><fig><label>Figure 1</label>
    <caption><title>Heart</title><p>Beats.</p></caption></fig></sec>
    <glossary><def-list><def-item><term>BP</term><def><p>blood pressure</p></def></def-item></def-list></glossary>
    <ref-list><ref><mixed-citation>Gone</mixed-citation></ref></ref-list></back>
    <floats-group><table-wrap><label>Table 9</label><caption><p>Late</p></caption>
    <table><tr><td>a</td></tr><tr><td>1</td></tr></table></table-wrap></floats-group>"""
    assert body_of(jats(tmp_path, "<p>x</p>", rest)) == (
        "x\n\n## Figures and Tables\n\n**Figure 1.** Heart. Beats.\n\n## Abbreviations\n\n- BP: blood pressure"
        "\n\n**Table 9.** Late\n\n| a |\n| --- |\n| 1 |"
    )


def test_captions_of_supplementary_files_without_what_only_links_them(tmp_path: Path) -> None:
    text = body_of(jats(tmp_path, """<supplementary-material><label>Table S1</label><caption>
    <p>Doses by age.</p><p>(167 KB DOC).</p></caption><media><caption><p>Click here for file</p></caption></media>
    </supplementary-material>"""))  # fmt: skip
    assert text == "**Table S1.** Doses by age."


TABLE = """<table-wrap><label>Table 2</label><caption><title>Outcome</title><p>Values are n (%)</p></caption>
<table><thead><tr><th rowspan="2">Drug</th><th colspan="2">Dose</th></tr><tr><th>low</th><th>high</th></tr></thead>
<tbody><tr><td colspan="3">Adults</td></tr><tr><td rowspan="2">A</td><td>&lt;5<break/>mg</td><td>10 | 20</td></tr>
<tr><td>1.2<xref ref-type="table-fn" rid="f">a</xref></td><td><p>0.9</p><p>(0.7-1.1)</p></td></tr></tbody></table>
<table-wrap-foot><fn id="f"><label>a</label><p>P &lt; 0.05</p></fn></table-wrap-foot></table-wrap>"""


def test_a_table_with_spans_head_rows_breaks_and_footnotes(tmp_path: Path) -> None:
    assert body_of(jats(tmp_path, TABLE)) == (
        "**Table 2.** Outcome. Values are n (%)\n\n"
        "| Drug | Dose: low | Dose: high |\n| --- | --- | --- |\n"
        "| Adults |  |  |\n| A | <5 mg | 10 \\| 20 |\n| A | 1.2^{a} | 0.9 (0.7-1.1) |\n\n"
        "a P < 0.05"
    )


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<list list-type='order'><list-item><p>a</p><p>b</p></list-item><list-item><p>c</p></list-item></list>",
         "1. a b\n2. c"),
        ("<list><list-item><label>•</label><p>a</p><list><list-item><p>b</p></list-item></list></list-item></list>",
         "- a\n  - b"),
        ("<def-list><def-item><term>BP</term><def><p>pressure</p></def></def-item></def-list>",
         "- BP: pressure"),
        ("<sec><label>2.1</label><title>Dose</title><p>x</p></sec>", "## Dose\n\nx"),
    ],
)  # fmt: skip
def test_lists_and_sections(markup: str, expected: str, tmp_path: Path) -> None:
    assert body_of(jats(tmp_path, markup)) == expected


MATH = '<inline-formula xmlns:m="http://www.w3.org/1998/Math/MathML"><m:math>{}</m:math></inline-formula>'


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("10<sup>9</sup>/L CO<sub>2</sub> N<sub>e</sub> 4<sup>th</sup> m<sup>−2</sup>", "10⁹/L CO₂ N_{e} 4th m⁻²"),
        (MATH.format("<m:msup><m:mi>x</m:mi><m:mn>2</m:mn></m:msup><m:mo>≤</m:mo><m:mn>5</m:mn>"), "x² ≤ 5"),
        (MATH.format("<m:mfrac><m:mrow><m:mi>a</m:mi><m:mo>+</m:mo><m:mi>b</m:mi></m:mrow><m:mi>c</m:mi></m:mfrac>"),
         "(a + b)/c"),
        (MATH.format("<m:msqrt><m:mi>n</m:mi></m:msqrt>"), "√(n)"),
        (MATH.format("<m:mover><m:mi>x</m:mi><m:mo>¯</m:mo></m:mover>"), "x̄"),
        (MATH.format("<m:munderover><m:mo>∑</m:mo><m:mi>i</m:mi><m:mi>n</m:mi></m:munderover>"), "∑_{i}ⁿ"),
        (MATH.format("<m:mi>f</m:mi><m:mo>\u2061</m:mo><m:mfenced><m:mi>x</m:mi><m:mi>y</m:mi></m:mfenced>"), "f(x, y)"),
        ("<inline-formula><inline-graphic/></inline-formula> mm", "[formula] mm"),
        ("<disp-formula><tex-math>\\begin{document}$$e=1$$\\end{document}</tex-math><label>(3)</label></disp-formula>",
         "$$e=1$$ (3)"),
    ],
)  # fmt: skip
def test_formulae_and_raised_characters(markup: str, expected: str, tmp_path: Path) -> None:
    assert body_of(jats(tmp_path, f"<p>{markup}</p>")) == expected


CITED = """<p>Risk fell [<xref ref-type="bibr" rid="r1">1</xref>,<xref ref-type="bibr" rid="r2">2</xref>] (see
<xref ref-type="fig" rid="f1">Fig. 1</xref>) by 5%<sup><xref ref-type="bibr" rid="r2">2</xref></sup> [95% CI 1-9]
(<xref ref-type="bibr" rid="r1">Lee 2001</xref>).</p><fig id="f1"><label>Figure 1</label><caption><p>Survival
of 40 patients. Bars: SD.</p></caption></fig>"""
REFERENCES = """<back><ref-list><ref id="r1"><element-citation><person-group><name><surname>Lee</surname></name>
</person-group><article-title>Aspirin at 75 mg</article-title></element-citation></ref><ref id="r2"><mixed-citation>
no title</mixed-citation></ref></ref-list></back>"""


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("keep", "Risk fell [1,2] (see Fig. 1) by 5% [2] [95% CI 1-9] (Lee 2001).\n\n"
         "**Figure 1.** Survival of 40 patients. Bars: SD."),
        ("strip", "Risk fell (see Fig. 1) by 5% [95% CI 1-9].\n\n"
         "**Figure 1.** Survival of 40 patients. Bars: SD."),
        ("special_tokens",
         "Risk fell [bib_ref] Aspirin at 75 mg, Lee [/bib_ref] (see [fig_ref] Figure 1: Survival of 40 patients "
         "[/fig_ref]) by 5% [95% CI 1-9] [bib_ref] Aspirin at 75 mg, Lee [/bib_ref].\n\n"
         "[fig] **Figure 1.** Survival of 40 patients. Bars: SD. [/fig]"),
    ],
)  # fmt: skip
def test_citation_modes(mode: str, expected: str, tmp_path: Path) -> None:
    assert body_of(jats(tmp_path, CITED, REFERENCES, citations=mode)) == expected


def test_special_tokens_around_tables_and_formulae(tmp_path: Path) -> None:
    text = body_of(jats(tmp_path, TABLE + "<disp-formula><tex-math>x</tex-math></disp-formula>",
                        citations="special_tokens"))  # fmt: skip
    assert text.startswith("[table] **Table 2.** Outcome.")
    assert text.endswith("a P < 0.05 [/table]\n\n[formula] x [/formula]")


CNXML = """<document xmlns="http://cnx.rice.edu/cnxml"><title>Doses</title><metadata><x>no</x></metadata><content>
<para>Take<footnote>not twice</footnote> 5<newline/>mg.</para><figure><title>Pump</title><media alt="no"/>
<caption>(credit: A)</caption></figure><table><title>T</title><tgroup cols="2"><colspec colname="c1"/>
<colspec colname="c2"/><thead><row><entry namest="c1" nameend="c2">Both</entry></row></thead><tbody><row>
<entry>a</entry><entry>b</entry></row></tbody></tgroup></table><list list-type="enumerated"><item>one</item></list>
</content><glossary><definition><term>dose</term><meaning>an amount</meaning></definition></glossary></document>"""


def test_a_textbook_module(tmp_path: Path) -> None:
    (tmp_path / "m1").mkdir()
    (tmp_path / "m1" / "index.cnxml").write_text(CNXML)
    (document,) = read_source(tmp_path / "m1" / "index.cnxml", "cnxml", {}, "book/m1/index.cnxml")
    assert isinstance(document, RawDocument)
    assert document.id == "book/m1"
    assert document.text == (
        "# Doses\n\nTake (not twice) 5 mg.\n\n**Figure.** Pump. (credit: A)\n\n**Table.** T\n\n"
        "| Both |  |\n| --- | --- |\n| a | b |\n\n1. one\n\n## Key Terms\n\n- dose: an amount"
    )


def test_a_page_in_another_encoding_and_a_table_inside_a_cell(tmp_path: Path) -> None:
    page = """<html><head><meta charset="iso-8859-1"></head><body><p>37 °C</p>
    <table><tr><th>a</th></tr><tr><td><table><tr><td>in</td><td>ner</td></tr></table></td></tr></table></body></html>"""
    (tmp_path / "a.html").write_bytes(page.encode("iso-8859-1"))
    (document,) = read_source(tmp_path / "a.html", "html", {})
    assert isinstance(document, RawDocument)
    assert document.text == "37 °C\n\n| a |\n| --- |\n| in ner |"
