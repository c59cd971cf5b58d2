"""The tokens of a VNN-LIB file one after the other, checked against what the grammar expects."""

from __future__ import annotations

import re
from typing import Final

from ibpc.errors import PropertyError
from ibpc.verify.vnnlib.lexer import SourceText, Token, shown

# Most work for reading a file, counted in terms that are added; a declaration, number or variable counts `WORD`.
MOST_WORK: Final = 2**22
WORD: Final = 2


class Tokens:
    """The tokens of a file in order, and the work that reading them has taken so far."""

    def __init__(self, source: SourceText) -> None:
        self.source = source
        self._tokens = source.tokens()
        self._end = Token("", len(source.text))
        self._following = next(self._tokens, self._end)
        self._work = 0

    @property
    def is_at_end(self) -> bool:
        """Whether no token is left."""
        return self._following is self._end

    def peek(self) -> Token:
        """Return the next token without taking it, an empty one at the end."""
        return self._following

    def next(self) -> Token:
        """Take the next token, an empty one at the end."""
        token = self._following
        self._following = next(self._tokens, self._end)
        return token

    def error(self, token: Token, expected: str, remedy: str = "") -> PropertyError:
        """Return the error for an unexpected token."""
        found = f"found {shown(token.text)}" if token.text else "the file ends"
        return self.source.error(token.offset, found, expected, remedy)

    def take(self, text: str) -> Token:
        """Take the next token. Raises PropertyError unless it is `text`."""
        token = self.next()
        if token.text != text:
            raise self.error(token, repr(text))
        return token

    def word(self, pattern: re.Pattern[str], expected: str) -> Token:
        """Take the next token. Raises PropertyError unless it matches a pattern."""
        token = self.next()
        if not pattern.fullmatch(token.text):
            raise self.error(token, expected)
        return token

    def spend(self, token: Token, amount: int) -> None:
        """Count the work for a token. Raises PropertyError if the total is too much."""
        self._work += amount
        if self._work > MOST_WORK:
            raise self.source.error(token.offset, "too many numbers and variables so far", "a smaller property")
