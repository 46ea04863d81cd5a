"""Reads a JSON object with huge arrays record by record, in memory that does not grow with the file.

A block of records is decoded at once by msgspec, which skips what is not asked for. Only where a block does not
decode, its records are taken apart one by one, without recursion, to say which one is wrong and why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

_BLOCK = 2 * 1024 * 1024
_TRIES = 6
_LONGEST = 64 * 1024 * 1024  # bytes of one record; nobody needs more, and hostile files must not fill the memory
_BETWEEN = re.compile(rb"\}\s*,\s*(?=\{)")
# What matters for finding the end of a value: brackets in a row, a whole string, or one that goes on (`open`).
_TOKEN = re.compile(rb'[\[{]+|[\]}]+|"[^"\\]*(?:\\.[^"\\]*)*(?:"|(?P<open>\\?\Z))', re.DOTALL)
_BLANK = re.compile(rb"[ \t\r\n]*")
_SCALAR = re.compile(rb"[^,\]}\s]+")


@dataclass(frozen=True)
class BadRecord:
    """A record that does not decode. position: from 0 in its array. what: was expected. excerpt: what came."""

    position: int
    text: bytes
    what: str
    excerpt: str

    def scalar(self, field: str) -> str | None:
        """A number or a string of the record as it is written, found without decoding; None where there is none."""
        match = re.search(rb'"' + field.encode() + rb'"\s*:\s*("(?:[^"\\]|\\.){0,100}"|[-+.\w]{1,100})', self.text)
        return match[1].decode("utf-8", "replace") if match else None


class BrokenFile(Exception):
    """The file as a whole is no JSON object of the expected form: where, what was expected, what came."""

    def __init__(self, record: str, what: str, value: str) -> None:
        super().__init__(f"{record}: {what}, got {value}")
        self.record, self.what, self.value = record, what, value


def read_arrays(
    path: Path,
    types: dict[str, Any],
    on_records: Callable[[str, list[Any]], None],
    on_bad: Callable[[str, BadRecord], None],
) -> set[str]:
    """Walks through the top-level object and hands over the records of the arrays named in `types`, block by block.

    `types` gives the msgspec type of one record of each array. Returns the keys of `types` that the file has.
    Raises `BrokenFile`.
    """
    found: set[str] = set()
    with open(path, "rb") as file:
        walker = _Walker(file)
        walker.start()
        for key in walker.each_key():
            if key not in types:
                walker.skip_value(key)
                continue
            if key in found:
                raise BrokenFile(f"key {key!r}", "expected it once", "it a second time")
            found.add(key)
            walker.read_array(key, types[key], on_records, on_bad)
    return found


class _Walker:
    """A window onto the file that moves forward. `text[at:]` is what has been read but not used."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.text, self.at = file, b"", 0
        self.offset = 0  # of text[0] in the file
        self.end_of_file = False

    def start(self) -> None:
        self._more()
        if self.text.startswith(b"\xef\xbb\xbf"):
            self.at = 3
        first = self._peek()
        if first != b"{":
            raise BrokenFile("top level", "expected a JSON object", self._excerpt() or "an empty file")
        self.at += 1

    def each_key(self) -> Iterator[str]:
        """The keys of the top-level object; the caller consumes the value after each."""
        first = True
        while True:
            char = self._peek()
            if char == b"}":
                return
            if not first:
                self._expect(b",")
                char = self._peek()
            first = False
            if char != b'"':
                raise BrokenFile("top level", "expected a quoted key", self._excerpt() or "the end of the file")
            stop = self._value_end("top level")
            try:
                key = msgspec.json.decode(self.text[self.at : stop], type=str)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise BrokenFile("top level", "expected a quoted key", str(error)) from None
            self.at = stop
            self._expect(b":")
            yield key

    def skip_value(self, key: str) -> None:
        """Passes over a value of any size and depth; only a string must fit into the memory."""
        if self._peek() not in (b"[", b"{"):
            self.at = self._value_end(f"key {key!r}")
            return
        depth = 0
        while True:
            match = _TOKEN.search(self.text, self.at)
            if match is None or match["open"] is not None:
                self.at = len(self.text) if match is None else match.start()
                self._require_more(f"key {key!r}")
                continue
            depth, self.at = _follow(depth, match)
            if depth == 0:
                return

    def read_array(
        self,
        key: str,
        kind: Any,
        on_records: Callable[[str, list[Any]], None],
        on_bad: Callable[[str, BadRecord], None],
    ) -> None:
        if self._peek() != b"[":
            raise BrokenFile(f"key {key!r}", "expected an array", self._excerpt() or "the end of the file")
        self.at += 1
        if self._peek() == b"]":
            self.at += 1
            return
        block, single = msgspec.json.Decoder(list[kind]), msgspec.json.Decoder(kind)
        position = 0
        while True:
            records = self._decode_block(block)
            if records is not None:
                on_records(key, records)
                position += len(records)
                continue
            # The end of the array, or a block with something wrong in it: one record at a time.
            block_end = self.offset + self.at + _BLOCK
            while True:
                position += 1
                self._one_record(key, single, position - 1, on_records, on_bad)
                char = self._peek()
                self.at += 1
                if char == b"]":
                    return
                if char != b",":
                    self.at -= 1
                    what = "expected a comma or the end of the array after it"
                    raise BrokenFile(f"{key} record {position - 1}", what, self._excerpt() or "the end of the file")
                self._peek()
                if self.offset + self.at >= block_end:
                    break

    def _decode_block(self, decoder: msgspec.json.Decoder[list[Any]]) -> list[Any] | None:
        """Whole records up to a boundary between two of them, consumed; None where that does not work out.

        A boundary that lies inside a record leaves brackets or quotes open, so that decoding fails.
        """
        if len(self.text) - self.at < _BLOCK:
            self._more()
        window = self.text[self.at : self.at + _BLOCK]
        reach = 4096
        boundaries: list[re.Match[bytes]] = []
        while not boundaries and reach < 8 * len(window):
            boundaries = list(_BETWEEN.finditer(window, max(0, len(window) - reach)))[-_TRIES:]
            reach *= 8
        for boundary in reversed(boundaries):
            try:
                records = decoder.decode(b"[" + window[: boundary.start() + 1] + b"]")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            self.at += boundary.end()
            return records
        return None

    def _one_record(
        self,
        key: str,
        decoder: msgspec.json.Decoder[Any],
        position: int,
        on_records: Callable[[str, list[Any]], None],
        on_bad: Callable[[str, BadRecord], None],
    ) -> None:
        stop = self._value_end(f"{key} record {position}")
        text = self.text[self.at : stop]
        self.at = stop
        try:
            record = decoder.decode(text)
        except RecursionError:
            on_bad(key, BadRecord(position, text, "expected nesting a reader can follow", _depth_text(text)))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            on_bad(key, BadRecord(position, text, *explain(error, text)))
        else:
            on_records(key, [record])

    def _value_end(self, where: str) -> int:
        """Where the value at `at` ends; reads on until it is whole."""
        first = self._peek()
        depth, look = 0, self.at
        while True:
            if first in (b'"', b"[", b"{"):
                match = _TOKEN.search(self.text, look)
                if match is not None and match["open"] is None:
                    depth, look = _follow(depth, match)
                    if depth == 0:
                        return look
                    continue
                look = len(self.text) if match is None else match.start()
            else:
                scalar = _SCALAR.match(self.text, self.at)
                if scalar is None and first:
                    raise BrokenFile(where, "expected a JSON value", self._excerpt())
                if scalar is not None and (scalar.end() < len(self.text) or self.end_of_file):
                    return scalar.end()
            behind = look - self.at
            self._require_more(where)
            look = self.at + behind

    def _require_more(self, where: str) -> None:
        if self.end_of_file:
            raise BrokenFile(where, "expected it to be complete", "the end of the file")
        if len(self.text) - self.at > _LONGEST:
            raise BrokenFile(where, f"expected at most {_LONGEST} bytes", "more")
        self._more()

    def _peek(self) -> bytes:
        """The next character that is not blank; empty at the end of the file."""
        while True:
            match = _BLANK.match(self.text, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.text) or self.end_of_file:
                return self.text[self.at : self.at + 1]
            self._more()

    def _expect(self, char: bytes) -> None:
        if self._peek() != char:
            raise BrokenFile("top level", f"expected {char.decode()!r}", self._excerpt() or "the end of the file")
        self.at += 1

    def _more(self) -> None:
        piece = self.file.read(max(_BLOCK, len(self.text) - self.at))
        self.end_of_file = not piece
        self.text = self.text[self.at :] + piece
        self.offset += self.at
        self.at = 0

    def _excerpt(self) -> str:
        return self.text[self.at : self.at + 60].decode("utf-8", "replace")


def _follow(depth: int, token: re.Match[bytes]) -> tuple[int, int]:
    """The depth after a token, and where it ends: in a row of closing brackets, where the value does."""
    if token[0][0] in b"[{":
        return depth + len(token[0]), token.end()
    if token[0][0] in b"]}":
        closed = min(depth, len(token[0]))
        return depth - closed, token.start() + closed
    return depth, token.end()


def explain(error: Exception, text: bytes) -> tuple[str, str]:
    """What msgspec expected, and the piece of the record that it did not like."""
    reason, _, place = str(error).partition(" - at ")
    byte = re.search(r"\(byte (\d+)\)", reason)
    if byte is not None:
        at = int(byte[1])
        return "expected valid JSON", text[max(0, at - 40) : at + 20].decode("utf-8", "replace")
    missing = re.search(r"missing required field `(\w+)`", reason)
    if missing is not None:
        return f"expected the field {missing[1]}", text[:60].decode("utf-8", "replace")
    expected, _, got = reason.partition(", got ")
    what = expected[:1].lower() + expected[1:].replace("`", "")
    field = re.match(r"`\$\.(\w+)", place)
    value = text
    if field is not None:
        what += f" as {field[1]}"
        found = re.search(rb'"' + field[1].encode() + rb'"\s*:\s*', text)
        value = text if found is None else text[found.end() :]
    shown = value[:60].decode("utf-8", "replace")
    return what, f"{got.replace('`', '')}: {shown}" if got else shown


def _depth_text(text: bytes) -> str:
    depth = deepest = 0
    for match in _TOKEN.finditer(text):
        depth = _follow(depth, match)[0]
        deepest = max(deepest, depth)
    return f"{deepest} levels"
