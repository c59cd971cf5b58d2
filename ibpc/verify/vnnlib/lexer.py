"""VNN-LIB files as text and tokens, of limited size."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ibpc.errors import PropertyError
from ibpc.files import Packable

MOST_BYTES: Final = 2**27
LONGEST_WORD: Final = 1000

_FILE: Final = Packable(".vnnlib", "a property", MOST_BYTES, PropertyError)
_SHOWN: Final = 40

# The lexical grammar: blanks and comments are skipped; a word is a run of characters without blanks and punctuation.
_TOKEN: Final = re.compile(
    r"""(?P<skipped> [ \t\r\n\f]+ | ;[^\n]* )
      | (?P<mark> [()\[\],] )
      | (?P<word> [!#-'*+\-./0-9:<=>?@A-Z\\^_`a-z{}~$%&]+ )
      | (?P<string> "[^"]*" | \|[^|]*\| )
      | (?P<other> . )""",
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """A parenthesis, bracket, comma, word or string, and the offset of its first character."""

    text: str
    offset: int


@dataclass(frozen=True, eq=False, slots=True)
class SourceText:
    """The text of a property, and its name for messages."""

    name: str
    text: str

    def at(self, offset: int) -> str:
        """Return "name:line:column" of an offset, both counted from 1."""
        start = self.text.rfind("\n", 0, offset) + 1
        return f"{self.name}:{self.text.count(chr(10), 0, offset) + 1}:{offset - start + 1}"

    def error(self, offset: int, found: str, expected: str = "", remedy: str = "") -> PropertyError:
        """Return an error at an offset."""
        return PropertyError.at(self.at(offset), found, expected, remedy)

    def tokens(self) -> Iterator[Token]:
        """Yield the tokens. Raises PropertyError for a character that starts no token, and for a word too long."""
        for match in _TOKEN.finditer(self.text):
            kind = match.lastgroup
            if kind == "skipped":
                continue
            if kind == "other":
                raise self._stray(match.start())
            if match.end() - match.start() > LONGEST_WORD:
                length = f"{match.end() - match.start():,} characters"
                raise self.error(match.start(), f"a word of {length}", f"at most {LONGEST_WORD:,}")
            yield Token(match.group(), match.start())

    def _stray(self, offset: int) -> PropertyError:
        character = self.text[offset]
        if character in '"|':
            return self.error(offset, "a string that is never closed", f"a closing {character}")
        return self.error(offset, f"found the character {character!a}", "a parenthesis, a name or a number")


def shown(word: str) -> str:
    """Return a word as messages quote it, shortened if long."""
    return repr(word if len(word) <= _SHOWN else word[:_SHOWN] + "…")


def read_source(path: Path) -> SourceText:
    """Return the text of a file, gzipped or not.

    Raises PropertyError if the file is missing, unpacks to more than `MOST_BYTES`, is damaged, or is not UTF-8.
    """
    data = _FILE.read(path)
    zero = data.find(b"\0")
    if zero >= 0:
        raise PropertyError.at(_byte_position(path, data, zero), "a NUL byte", "text")
    try:
        return SourceText(str(path), data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        found = f"the byte 0x{data[error.start]:02x}"
        raise PropertyError.at(_byte_position(path, data, error.start), found, "text in UTF-8") from error


def _byte_position(path: Path, data: bytes, offset: int) -> str:
    """Return "path:line:column" of a byte; the column counts bytes."""
    start = data.rfind(b"\n", 0, offset) + 1
    return f"{path}:{data.count(bytes([10]), 0, offset) + 1}:{offset - start + 1}"
