"""One name for each licence, however a document words it."""

import re

_CREATIVE_COMMONS = re.compile(
    r"creativecommons\.org/(?:licenses/(by(?:-nc)?(?:-nd|-sa)?)/(\d\.\d)|(publicdomain/(?:zero|mark)))", re.I
)
_WORDED = (
    (r"creative commons attribution[- ]non-?\s?commercial[- ,]*share", "CC-BY-NC-SA"),
    (r"creative commons attribution[- ]non-?\s?commercial[- ,]*no[- ]?deriv", "CC-BY-NC-ND"),
    (r"creative commons attribution[- ]non-?\s?commercial", "CC-BY-NC"),
    (r"creative commons attribution[- ,]*share", "CC-BY-SA"),
    (r"creative commons attribution[- ,]*no[- ]?deriv", "CC-BY-ND"),
    (r"creative commons attribution", "CC-BY"),
    (r"creative commons (?:zero|cc0|public domain)|\bcc0\b|placed in the public domain", "CC0-1.0"),
    (r"public domain", "public domain"),
    # BioMed Central's wording before it named Creative Commons.
    (r"verbatim copying and redistribution of this article are permitted in all media", "open access"),
)


def license_name(text: str) -> str:
    """The licence that a text or link names, as its SPDX name where it is a Creative Commons one.

    Returns:
        "" where no known licence is named. A Creative Commons licence named without its version,
        or worded only, stays without one: "CC-BY".
    """
    link = _CREATIVE_COMMONS.search(text)
    if link is not None:
        if link[3]:
            return "CC0-1.0" if link[3].lower().endswith("zero") else "public domain"
        return f"CC-{link[1].upper()}-{link[2]}"
    folded = " ".join(text.lower().split())
    return next((name for pattern, name in _WORDED if re.search(pattern, folded)), "")
