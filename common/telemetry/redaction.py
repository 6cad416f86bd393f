"""What must not be written down: values under secret names, and texts that look like keys, tokens and passwords.

It errs on the side of hiding: public keys in PEM go too, and so does what follows a secret in an unquoted URL. Every pattern
takes time linear in the text, whatever the text. Pure: text in, text out.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "[redacted]"

_HINTS: Final = ("pass", "pwd", "secret", "jwt", "authori", "credential", "cookie", "key", "token")
_SECRET: Final = (
    r"(?:passw(?:or)?d|passphrase|passcode|pwd|secrets?|jwt|authori[sz]ation|credentials?|cookie"
    r"|(?:secret|api|private|access|signing|encryption|session|master)[_.-]?key"
    r"|(?<!fencing_)(?<!fencing)token)"
)
_SECRET_NAME: Final = re.compile(rf"(?i){_SECRET}\Z")

_VALUE: Final = (
    r"(?:(?:bearer|basic|digest|token)\s+)?"
    r"(?:\\+[\"'].*?(?:\\+[\"']|\Z)"  # quoted inside a quotation
    r"|[bur]{0,2}\"(?:[^\"\\]|\\.)*+\"?"
    r"|[bur]{0,2}'(?:[^'\\]|\\.)*+'?"
    r"|[^\s,;\"']+)"
)
_NAMED: Final = re.compile(rf"(?is)({_SECRET}(?:\\*[\"'])?\s{{0,8}}[:=]{{1,2}}\s{{0,8}}){_VALUE}")
_OPTION: Final = re.compile(rf"(?i)((?<![\w-])--[a-z0-9_-]{{0,40}}?{_SECRET}(?:[\"'],)?\s{{1,8}}[\"']?)[^\s\"']+")
_SCHEME: Final = re.compile(r"\b((?i:bearer|basic)\s{1,8})[A-Za-z0-9._~+/=-]{8,}")
_USERINFO: Final = re.compile(r"(://[^\s/@:]{0,256}:)[^\s/@]{1,512}(?=@)")
_PEM: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{1,64}-----.*?(?:-----END [A-Z0-9 ]{1,64}-----|\Z)", re.DOTALL)
_SHAPED: Final = re.compile(
    r"(?<![\w-])(?:eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?"
    r"|sk-[\w-]{16,}|[sr]k_(?:live|test)_\w{8,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abeprs]-[\w-]{10,}"
    r"|tandem_[0-9a-f]{12}_[\w-]{43}|hf_\w{20,}|npm_\w{30,}|pypi-[\w-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,})"
)
_Z85: Final = re.compile(
    r"(?<![^\s\"'=:,;(\[{<])[0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{40}(?=[\s\"',;)\]}>]|\Z)"  # ZeroMQ RFC 32
)
_Z85_MARKS: Final = frozenset("+=^!*?&<>()[]{}@%$#")


def is_secret_name(name: str) -> bool:
    """Whether what stands under `name` (a field, a header, a setting) must not be written; `fencing_token` may."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """The text with everything that looks like a secret replaced by HIDDEN."""
    text = _PEM.sub(HIDDEN, text)
    lowered = text.lower()
    if any(hint in lowered for hint in _HINTS):
        text = _OPTION.sub(_keep_name, text)
        text = _NAMED.sub(_keep_name, text)
    text = _SCHEME.sub(_keep_name, text)
    text = _USERINFO.sub(_keep_name, text)
    text = _SHAPED.sub(HIDDEN, text)
    return _Z85.sub(_hide_curve_key, text)


def _keep_name(match: re.Match[str]) -> str:
    return match[1] + HIDDEN


def _hide_curve_key(match: re.Match[str]) -> str:
    """Of 40 random Z85 characters, all but one in a thousand have these kinds; a path or a hash has not."""
    text = match[0]
    marks = sum(character in _Z85_MARKS for character in text)
    mixed = any(map(str.isupper, text)) and any(map(str.islower, text))
    return HIDDEN if mixed and marks >= 2 else text
