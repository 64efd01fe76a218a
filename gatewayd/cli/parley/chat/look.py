"""How the screen is laid out, and which key does what."""

from __future__ import annotations

from textual.binding import Binding, BindingType

CSS = """
#conversations { width: 32; height: 1fr; border: none; border-right: solid $surface-lighten-2; }
#said { height: 1fr; border: none; }
#said > .option-list--option { padding: 0 1 1 1; }
#status, #title { height: 1; padding: 0 1; background: $panel; }
#status.offline { background: $warning 50%; }
Writing { height: auto; max-height: 8; min-height: 3; border: round $primary; }
"""
KEYS: list[BindingType] = [
    Binding("f1", "keys", "Help"),
    Binding("ctrl+n", "begin", "New"),
    Binding("ctrl+o", "send_file", "Send file"),
    Binding("f2", "save_files", "Save files"),
    Binding("f3", "details", "Who says so"),
    Binding("f4", "edit", "Edit"),
    Binding("f5", "react", "React"),
    Binding("f8", "take_back", "Take back"),
    Binding("f6", "decide(True)", "Accept"),
    Binding("f7", "decide(False)", "Refuse"),
    Binding("f9", "people", "People"),
    Binding("ctrl+q", "quit", "Quit"),
]
