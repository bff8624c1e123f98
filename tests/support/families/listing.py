"""Every family of the table, by name."""

from __future__ import annotations

from support.families import gemma, llava, qwen, text, tiled

FAMILIES = {
    family.name: family.with_what_is_installed()
    for family in (*llava.FAMILIES, *qwen.FAMILIES, *gemma.FAMILIES, *tiled.FAMILIES, *text.FAMILIES)
}
