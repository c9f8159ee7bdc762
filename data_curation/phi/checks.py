"""Check digits and ranges that tell an identifier from any other number."""

import ipaddress

_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_VIN_LETTERS = ("AJ", "BKS", "CLT", "DMU", "ENV", "FW", "GPX", "HY", "RZ")
_VIN_VALUES = {letter: value for value, letters in enumerate(_VIN_LETTERS, start=1) for letter in letters}


def digits_of(text: str) -> str:
    """The digits of a text."""
    return "".join(filter(str.isdigit, text))


def luhn(text: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812)."""
    digits = [int(digit) for digit in reversed(digits_of(text))]
    doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return len(digits) >= 13 and len(set(digits)) > 1 and (sum(digits[::2]) + doubled) % 10 == 0


def npi(text: str) -> bool:
    """The check digit of a US National Provider Identifier: Luhn with the prefix 80840."""
    return luhn("80840" + digits_of(text))


def ssn(text: str) -> bool:
    """Numbers that the US Social Security Administration can have issued."""
    digits = digits_of(text)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def nhs(text: str) -> bool:
    """The check digit of a UK NHS number (modulus 11)."""
    digits = [int(digit) for digit in digits_of(text)]
    if len(digits) != 10:
        return False
    check = 11 - sum(digit * weight for digit, weight in zip(digits[:9], range(10, 1, -1), strict=True)) % 11
    return check != 10 and check % 11 == digits[9]


def iban(text: str) -> bool:
    """The check digits of an IBAN (ISO 13616, modulus 97)."""
    compact = "".join(text.split()).upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1


def vin(text: str) -> bool:
    """The check digit of a North American vehicle identification number."""
    text = text.upper()
    values = (int(letter) if letter.isdigit() else _VIN_VALUES.get(letter, 0) for letter in text)
    total = sum(weight * value for weight, value in zip(_VIN_WEIGHTS, values, strict=True))
    return "0123456789X"[total % 11] == text[8]


def ip_address(text: str) -> bool:
    """An IPv4 address that someone can have; numbers of versions and sections are small throughout."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return address.packed[0] > 0 and max(address.packed) > 31
