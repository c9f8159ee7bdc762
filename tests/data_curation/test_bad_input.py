"""Damaged and hostile input: a reason each, nothing lost, nothing executed or expanded."""

import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_curation.readers import BadRecord, RawDocument, read_source
from data_curation.readers import base as base_module

ARTICLE = "<article><body><p>{}</p></body></article>"


def read(path: Path, reader: str, **options: str) -> tuple[list[RawDocument], list[BadRecord]]:
    records = list(read_source(path, reader, options))
    return (
        [record for record in records if isinstance(record, RawDocument)],
        [record for record in records if isinstance(record, BadRecord)],
    )


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, len(content), "/etc/passwd"
    archive.addfile(member, io.BytesIO(content))


def test_an_archive_with_members_that_lead_elsewhere(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "/etc/evil.nxml", ARTICLE.format("absolute").encode())
        add(archive, "../../evil.nxml", ARTICLE.format("upwards").encode())
        add(archive, "link.nxml", kind=tarfile.SYMTYPE)
        add(archive, "hard.nxml", kind=tarfile.LNKTYPE)
        add(archive, "device.nxml", kind=tarfile.CHRTYPE)
        add(archive, "good.nxml", ARTICLE.format("good").encode())
    documents, bad = read(tmp_path / "a.tar", "jats")
    assert [document.text for document in documents] == ["good"]
    assert [(record.record, record.reason.split(",")[0]) for record in bad] == [
        ("/etc/evil.nxml", "its name leads out of the archive"),
        ("../../evil.nxml", "its name leads out of the archive"),
        ("link.nxml", "is a link or a device in an archive"),
        ("hard.nxml", "is a link or a device in an archive"),
        ("device.nxml", "is a link or a device in an archive"),
    ]


@pytest.mark.parametrize("packed", ["gz", "zst", "tar.gz"])
def test_a_compression_bomb_is_stopped_early(
    packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_module, "_RATIO_FLOOR", 2**20)
    path = tmp_path / f"a.{packed if packed.startswith('tar') else f'jsonl.{packed}'}"
    content = bytes(2**24)
    if packed == "tar.gz":
        with tarfile.open(path, "w:gz") as archive:
            add(archive, "a.jsonl", content)
    else:
        compress = gzip.compress if packed == "gz" else zstandard.ZstdCompressor().compress
        path.write_bytes(compress(content))
    documents, bad = read(path, "jsonl")
    assert documents == []
    assert "200 times its size" in bad[-1].reason


def test_a_broken_medline_record_costs_only_itself(tmp_path: Path) -> None:
    record = (
        "<PubmedArticle><MedlineCitation><PMID>{}</PMID><Article><ArticleTitle>t</ArticleTitle><Abstract>"
    )
    record += "<AbstractText>{}</AbstractText></Abstract></Article></MedlineCitation></PubmedArticle>"
    parts = [record.format(1, "good one").encode(), record.format(2, "caf\xe9").encode("latin-1"),
             record.format(3, "a <b unclosed").encode(), record.format(4, "good two").encode(),
             record.format(5, "cut").encode()[:-60]]  # fmt: skip
    (tmp_path / "a.xml").write_bytes(
        b"<?xml version='1.0' encoding='utf-8'?><PubmedArticleSet>" + b"\n".join(parts)
    )
    documents, bad = read(tmp_path / "a.xml", "medline")
    assert [document.id for document in documents] == ["1", "4"]
    assert [record.record for record in bad] == ["PMID 2", "PMID 3", "PMID 5"]


def test_broken_json_lines_cost_only_themselves(tmp_path: Path) -> None:
    lines = [b'{"id": "1", "text": "a"}', b'{"id": "2", "text": "b', b'{"id": "3", "text": "\xff"}', b"[1]",
             b"[" * 100_000, b'{"id": "4"}', b'{"id": "5", "text": 5}', b'{"id": "6", "text": null}',
             json.dumps({"id": "7", "text": "x" * 10_000_000}).encode()]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents, bad = read(tmp_path / "a.jsonl", "jsonl")
    assert [(document.id, len(document.text)) for document in documents] == [
        ("1", 1),
        ("6", 0),
        ("7", 10_000_000),
    ]
    assert [record.record for record in bad] == [f"line {number}" for number in (2, 3, 4, 5, 6, 7)]


def test_a_line_or_file_larger_than_any_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_curation.readers.records.MAX_DOCUMENT_BYTES", 1000)
    monkeypatch.setattr(base_module, "MAX_DOCUMENT_BYTES", 1000)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x" * 2000}))
    (tmp_path / "a.nxml").write_text(ARTICLE.format("x" * 2000))
    for name, reader in (("a.jsonl", "jsonl"), ("a.nxml", "jats")):
        documents, (bad,) = read(tmp_path / name, reader)
        assert documents == []
        assert "MiB" in bad.reason


def test_parquet_without_a_text_column_names_its_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["1"], "body": ["x"]}), tmp_path / "a.parquet")
    documents, (bad,) = read(tmp_path / "a.parquet", "parquet")
    assert documents == []
    assert bad.reason == "has no column 'text'; its columns: id, body"
    documents, bad_records = read(tmp_path / "a.parquet", "parquet", text_field="body")
    assert ([document.text for document in documents], bad_records) == (["x"], [])


@pytest.mark.parametrize("reader", ["jats", "medquad", "cnxml"])
def test_no_entity_is_expanded_and_no_file_read(reader: str, tmp_path: Path) -> None:
    ending = "cnxml" if reader == "cnxml" else "xml"
    bomb = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;"><!ENTITY x SYSTEM "file:///etc/passwd">]><a>&b;&x;</a>'
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / f"a.{ending}").write_bytes(bomb.encode(encoding))
        documents, (bad,) = read(tmp_path / f"a.{ending}", reader)
        assert documents == []
        assert "entities" in bad.reason


def test_a_huge_text_node_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a.nxml").write_text(ARTICLE.format("dose 5 mg " * 1_200_000))
    (document,), bad = read(tmp_path / "a.nxml", "jats")
    assert (len(document.text), bad) == (11_999_999, [])


RECIPE = "curate:\n  sources:\n    notes: {path: notes.jsonl, reader: jsonl}\n"


def test_a_full_disk_is_one_sentence_and_the_next_start_goes_on(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": str(n), "text": f"{n} " + f"aspirin {n * 7919} mg daily, " * 40})
        for n in range(4000)
    ]
    (tmp_path / "notes.jsonl").write_text("\n".join(lines))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    command = f"{sys.executable} -m meditron curate --config {tmp_path}/recipe.yaml --data_root {tmp_path}"
    script = (
        f"mkdir {tmp_path}/small && mount -t tmpfs -o size=200k x {tmp_path}/small || exit 99\n"
        f"{command} --work_dir {tmp_path}/small; echo code $?; find {tmp_path}/small/corpus 2>&1\n"
        f"mount -o remount,size=8m {tmp_path}/small && {command} --work_dir {tmp_path}/small; echo code $?"
    )
    run = subprocess.run(["unshare", "-rm", "bash", "-c", script], capture_output=True, text=True)
    if run.returncode == 99 or "unshare" in run.stderr:
        pytest.skip("cannot mount a small tmpfs here")
    assert run.stdout.split("code ")[1].startswith("6\n")
    assert "No such file" in run.stdout
    assert run.stdout.endswith("code 0\n")
    (sentence,) = [line for line in run.stderr.splitlines() if line.startswith("meditron:")]
    assert "the disk is full" in sentence
    assert "Traceback" not in run.stderr
