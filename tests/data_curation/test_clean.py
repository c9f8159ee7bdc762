"""Cleaning takes out what is no content and never touches a clinical statement."""
# ruff: noqa: E501 - tables of cases

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_curation.clean import CLEANING_RULES, clean, normalise
from data_curation.clean.audit import Survival, clinical_tokens


def cleaned(text: str) -> str:
    return normalise(clean(text, CLEANING_RULES).text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("See [the trial](https://x.org/a?b=1) now.", "See the trial now."),
        ("Details (https://x.org/a_(b)#c) follow.", "Details follow."),
        ("Dose 5 mg. Available at: http://www.who.int/x.pdf", "Dose 5 mg."),
        ("| drug | www.x.org |", "| drug | |"),
        ("![ECG](a.png) shows ST > 1 mm", "shows ST > 1 mm"),
        ("Good.\n\n© 2020 The Authors. Published by Elsevier.\n\nMore.", "Good.\n\nMore."),
        ("It works (p<0.01). Copyright © 2021 Elsevier Ltd. All rights reserved.", "It works (p<0.01)."),
        ("It works. (PsycInfo Database Record (c) 2024 APA, all rights reserved).", "It works."),
        ("(a) no; (b) yes; (c) 2019 guidelines say BP <140.", "(a) no; (b) yes; (c) 2019 guidelines say BP <140."),
        ("Skip to main content\nHome > Health > Heart\nText", "Text"),
        ("- Hospital\n- Home\n- Search", "- Hospital\n- Home\n- Search"),
        ("&lt;p&gt;BP &amp;lt; 140 mmHg, 10&lt;sup&gt;9&lt;/sup&gt;/L&lt;/p&gt;&amp;nbsp;ok", "BP < 140 mmHg, 10⁹/L\n ok"),
        ("if a <b and c> d", "if a <b and c> d"),
        ("# T\n\nx\n\n## References\n\n1. Lee A. 2001;3:1.\n\n2. Kim B et al.\n\n## Annex\n\ny", "# T\n\nx\n\n## Annex\n\ny"),
        ("x\n\nReferences\n\nLee A. Aspirin. 2001.", "x"),
        ("## References\n\nThe reference range is 3-5 mmol/L.", "## References\n\nThe reference range is 3-5 mmol/L."),
    ],
)  # fmt: skip
def test_each_rule(text: str, expected: str) -> None:
    assert cleaned(text) == expected


def test_rules_that_are_not_wanted_do_nothing_and_removals_are_named() -> None:
    text = "See https://x.org/5mg now.\n\nSkip to main content"
    assert clean(text, []).text == text
    result = clean(text, ["urls", "navigation"])
    assert [(removal.rule, removal.passage) for removal in result.removed] == [
        ("navigation", "Skip to main content"), ("urls", "https://x.org/5mg"),
    ]  # fmt: skip


NUMBERS = st.decimals(0, 5000, places=1).map(str) | st.integers(0, 300).map(str)
COMPARATORS = st.sampled_from(["<", ">", "≤", "≥", "±", "=", "~", "<=", ">=", "≈"])
UNITS = st.sampled_from(
    [
        "mmHg",
        "%",
        " mg/kg",
        "×10⁹/L",
        " °C",
        " mL/min/1.73 m²",
        " µg",
        " IU/L",
        " mEq/L",
        " h",
        " mmol/L",
        " Gy",
    ]
)
NAMES = st.sampled_from(
    ["BP", "eGFR", "HbA1c", "IL-6", "BRCA1", "HER2/neu", "CD4⁺", "PaO₂/FiO₂", "TNF-α", "β-hCG", "p.V600E",
     "co-amoxiclav", "5-FU", "vitamin B₁₂", "c.35delG", "[Ca²⁺]"]
)  # fmt: skip
NEGATIONS = st.sampled_from(["no", "not", "without", "denies", "never", "neither", "non-", "absence of"])
BRACKETS = st.sampled_from(["()", "[]", "{}", "<>"])
STATEMENTS = st.one_of(
    st.builds("{} {}{}{}".format, NAMES, COMPARATORS, NUMBERS, UNITS),
    st.builds("if {} <{} and {} >{}".format, NAMES, NUMBERS, NAMES, NUMBERS),
    st.builds(lambda b, x, y: f"{b[0]}95% CI {x}–{y}; p<0.001{b[1]}", BRACKETS, NUMBERS, NUMBERS),
    st.builds("{} fever, {} {}-{}{}".format, NEGATIONS, NAMES, NUMBERS, NUMBERS, UNITS),
    st.builds("{} {} mg every {} h (max. {} mg/day)".format, NAMES, NUMBERS, NUMBERS, NUMBERS),
    st.builds("OR {} [{}, {}], n={}".format, NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    st.builds("{}<{}<{}".format, NUMBERS, NAMES, NUMBERS),
)
NOISE = st.sampled_from(
    ["See https://www.x.org/a?b=1&c=2.", "[link](http://y.org)", "\n\n© 2020 The Authors.\n\n", "\nSkip to main content\n",
     "\n\n## References\n\n1. Lee A. 2001.\n\n2. Kim B. 1999.\n\n## Dose\n\n", "&amp;nbsp;", "Â±", "\u200b"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(STATEMENTS, NOISE), min_size=1, max_size=6))
def test_clinical_statements_survive_between_what_is_removed(pieces: list[tuple[str, str]]) -> None:
    text = " ".join(f"{statement} {noise}" for statement, noise in pieces)
    result = cleaned(text)
    position = 0
    for statement, _ in pieces:
        found = result.find(statement, position)
        assert found >= 0, (statement, result)
        position = found + len(statement)


def test_survival_counts_what_rules_take_and_what_is_lost() -> None:
    before = "BP <140 mmHg\n\n© 2020 X.\n\n10⁹/L and 5 mg"
    survival = Survival()
    survival.add(before, cleaned(before), clean(before, CLEANING_RULES).removed)
    assert (survival.tokens, dict(survival.removed), survival.lost, survival.share) == (
        8,
        {"notices": 1},
        0,
        1.0,
    )
    survival.add("HbA1c >7%", "HbA1c 7%", [])
    assert survival.lost == 1
    assert survival.share == pytest.approx(1 - 1 / 10)
    assert clinical_tokens("p<=0.05, 3 µg") == {"<=": 1, "0.05": 1, "3": 1, "µg": 1}
