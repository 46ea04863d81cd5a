"""A page of a report: headings, text and pictures in rows, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .color_scale import Color, ColorScale, number

INK: Color = (30, 30, 30)
SOFT: Color = (95, 95, 95)
WHITE: Color = (255, 255, 255)
GAP = 20
"""Pixels between tiles, and around the page."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Page:
    """Pieces below each other, and tiles in rows of as many as `most` pixels hold, four at most."""

    def __init__(self, tile_width: int, most: int = 1900, least: int = 1200) -> None:
        self.columns = max(1, min(4, (most + GAP) // (tile_width + GAP)))
        self.tile_width = tile_width
        self.width = max(self.columns * (tile_width + GAP) - GAP, least)
        self.pieces: list[Image.Image] = []

    def text(self, text: str, size: int, color: Color = INK) -> None:
        """A paragraph."""
        font = ImageFont.load_default(size=size)
        for line in wrapped(text, font, self.width):
            piece = Image.new("RGB", (self.width, round(1.5 * size)), WHITE)
            ImageDraw.Draw(piece).text((0, 2), line, fill=color, font=font)
            self.pieces.append(piece)

    def section(self, title: str) -> None:
        """A heading."""
        self.pieces.append(Image.new("RGB", (self.width, 14), WHITE))
        piece = Image.new("RGB", (self.width, 36), (236, 239, 243))
        ImageDraw.Draw(piece).text((8, 6), title, fill=INK, font=ImageFont.load_default(size=20))
        self.pieces.append(piece)

    def paste(self, picture: Image.Image) -> None:
        """A picture of the width of the page."""
        self.pieces.append(picture)

    def grid(self, tiles: Sequence[Image.Image]) -> None:
        """Tiles beside each other, in as many rows as they need."""
        for start in range(0, len(tiles), self.columns):
            row = tiles[start : start + self.columns]
            piece = Image.new("RGB", (self.width, max(t.height for t in row) + 8), WHITE)
            for k, tile in enumerate(row):
                piece.paste(tile, (k * (self.tile_width + GAP), 6))
            self.pieces.append(piece)

    def done(self) -> Image.Image:
        """The page."""
        page = Image.new("RGB", (self.width + 2 * GAP, sum(p.height for p in self.pieces) + 2 * GAP), WHITE)
        y = GAP
        for piece in self.pieces:
            page.paste(piece, (GAP, y))
            y += piece.height
        return page


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Lines of at most `width` pixels, if no word is longer."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def fitted(text: str, font: Font, width: int) -> str:
    """The start of the text, as much as `width` pixels hold."""
    while len(text) > 4 and font.getlength(text) > width:
        text = text[:-4] + "..."
    return text


def tile(picture: Image.Image, title: str, caption: str, scale: ColorScale | None = None) -> Image.Image:
    """A panel with its title above and its caption, or its color bar and caption, below."""
    font, small = ImageFont.load_default(size=17), ImageFont.load_default(size=13)
    width = picture.width
    lines = wrapped(caption, small, width - 4)
    sheet = Image.new("RGB", (width, 26 + picture.height + 6 + (24 if scale else 0) + 18 * max(1, len(lines))), WHITE)
    draw = ImageDraw.Draw(sheet)
    draw.text((0, 1), fitted(title, font, width), fill=INK, font=font)
    sheet.paste(picture, (0, 26))
    y = 26 + picture.height + 6
    if scale is not None:
        low, high = number(scale.low), number(scale.high)
        start = draw.textlength(low, font=small) + 8
        bar = min(260, width // 2)
        draw.text((0, y), low, fill=INK, font=small)
        sheet.paste(scale.bar(bar, 14), (round(start), y + 1))
        draw.text((start + bar + 8, y), high + (" (logarithmic)" if scale.log else ""), fill=INK, font=small)
        y += 24
    for line in lines:
        draw.text((0, y), line, fill=SOFT, font=small)
        y += 18
    return sheet
