"""The reader `grobid`, against a server that answers as GROBID does."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from data_curation.readers import BadRecord, RawDocument, grobid, read_source
from meditron.errors import EnvironmentMissingError

TEI = """<?xml version="1.0" encoding="UTF-8"?>
<TEI xml:space="preserve" xmlns="http://www.tei-c.org/ns/1.0">
<teiHeader><fileDesc><titleStmt><title level="a" type="main">Metformin and HbA1c</title></titleStmt>
<sourceDesc><biblStruct><idno type="DOI">10.1/abc</idno></biblStruct></sourceDesc></fileDesc>
<profileDesc><abstract><div><p>HbA1c fell by 1.1% (p &lt; 0.001).</p></div></abstract>
</profileDesc></teiHeader>
<text><body>
<div><head n="1">Methods</head><p>Adults with BP &lt;140 mmHg
<ref type="bibr" target="#b0">[1]</ref> took 500 mg.</p>
<formula xml:id="formula_0">x = a / b</formula></div>
<div><head n="2">Results</head><p>As in <ref type="figure" target="#tab_0">Table 1</ref>.</p>
<figure type="table" xml:id="tab_0"><head>Table 1</head><label>1</label><figDesc>Doses by group.</figDesc>
<table><row><cell cols="2">Group</cell></row><row><cell>Low</cell><cell>5 mg</cell></row>
<row><cell>High</cell><cell>10 mg</cell></row></table></figure></div>
</body><back><div type="references"><listBibl><biblStruct><analytic><title>Another work</title></analytic>
<idno type="DOI">10.9/other</idno></biblStruct></listBibl></div></back></text></TEI>"""


class Server(HTTPServer):
    """Answers with these statuses in turn, the last one from then on."""

    def __init__(self, statuses: list[int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses, self.asked = statuses, list[bytes]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.statuses[0]
        self.server.statuses = self.server.statuses[1:] or [status]
        good = status == 200 and self.path == "/api/processFulltextDocument"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(TEI.encode() if good else b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(grobid, "_BUSY_PAUSE_SECONDS", 0.01)
    running = Server(list(request.param))
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def read(folder: Path, url: str, **options: object) -> RawDocument | BadRecord:
    path = folder / "a.pdf"
    path.write_bytes(b"%PDF-1.4 something")
    (record,) = read_source(path, "grobid", {"url": url, **options})
    return record


@pytest.mark.parametrize("server", [[503, 200]], indirect=True)
def test_an_article_is_markdown_with_its_tables_and_identifiers(server: Server, tmp_path: Path) -> None:
    document = read(tmp_path, server.url)
    assert isinstance(document, RawDocument)
    assert len(server.asked) == 2  # the first time it was busy
    assert b'name="input"' in server.asked[1]
    assert b"%PDF-1.4 something" in server.asked[1]
    assert (document.id, document.title) == ("10.1/abc", "Metformin and HbA1c")
    assert document.metadata == {"file": "a.pdf", "doi": "10.1/abc"}
    assert document.text == "\n\n".join(
        [
            "# Metformin and HbA1c", "## Abstract", "HbA1c fell by 1.1% (p < 0.001).",
            "## Methods", "Adults with BP <140 mmHg [1] took 500 mg.", "x = a / b",
            "## Results", "As in Table 1.", "**Table 1.** Doses by group.",
            "| Group |  |\n| --- | --- |\n| Low | 5 mg |\n| High | 10 mg |",
        ]
    )  # fmt: skip


@pytest.mark.parametrize("server", [[500]], indirect=True)
def test_what_the_server_cannot_read_is_a_bad_record(server: Server, tmp_path: Path) -> None:
    record = read(tmp_path, server.url)
    assert isinstance(record, BadRecord)
    assert record.reason == "GROBID cannot read it (status 500)"


@pytest.mark.parametrize("server", [[503]], indirect=True)
def test_a_server_that_stays_busy_is_given_up(server: Server, tmp_path: Path) -> None:
    record = read(tmp_path, server.url, seconds=0.1)
    assert isinstance(record, BadRecord)
    assert record.reason == "took GROBID longer than 0.1 s"


@pytest.mark.parametrize("server", [[204]], indirect=True)
def test_an_empty_answer_is_a_bad_record(server: Server, tmp_path: Path) -> None:
    record = read(tmp_path, server.url)
    assert isinstance(record, BadRecord)
    assert "not well-formed XML" in record.reason


def test_without_a_server_the_stage_stops(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMissingError, match=r"no GROBID server answers at http://127\.0\.0\.1:9"):
        read(tmp_path, "http://127.0.0.1:9")
