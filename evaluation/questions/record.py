"""The daily notes of a hospital stay, made up: plain, without any allergy or antibiotic."""

import datetime
import random
from collections.abc import Iterator

ADMITTED = datetime.date(2021, 3, 1)
DRUGS = ("furosemide", "bisoprolol", "ramipril", "metformin", "insulin", "heparin", "paracetamol", "aspirin")
FINDINGS = (
    "Slept well and has no pain",
    "Short of breath on the stairs, better at rest",
    "Some swelling of both ankles, less than before",
    "Ate half of the meals",
    "Wound is dry and clean",
    "Walked to the end of the ward with help",
    "No fever in the night, cough is less",
    "Felt dizzy in the morning",
)
PLANS = (
    "weigh every day",
    "repeat the blood tests tomorrow",
    "walk with the physiotherapist",
    "fluids of 1.5 litres a day",
    "scan of the chest next week",
    "speak with the family",
    "check the blood pressure twice a day",
)


def notes(drawn: random.Random) -> Iterator[str]:
    """One note a day, without end."""
    day = 0
    while True:
        day += 1
        yield _note(day, drawn)


def _note(day: int, drawn: random.Random) -> str:
    date = ADMITTED + datetime.timedelta(days=day - 1)
    pressure = f"{drawn.randint(105, 165)}/{drawn.randint(60, 95)}"
    return (
        f"Day {day}, {date:%Y-%m-%d}. Pulse {drawn.randint(58, 104)}, blood pressure {pressure}, "
        f"{drawn.uniform(36.2, 38.1):.1f} degrees. {drawn.choice(FINDINGS)}. "
        f"Sodium {drawn.randint(131, 145)}, potassium {drawn.uniform(3.4, 5.2):.1f}, "
        f"creatinine {drawn.randint(62, 148)}. "
        f"{drawn.choice(DRUGS).capitalize()} goes on. Plan: {drawn.choice(PLANS)}."
    )
