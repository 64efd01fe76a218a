"""How the screen is laid out, which key does what, and the page that says so."""

from __future__ import annotations

from textual.binding import Binding, BindingType

CSS = """
#conversations { width: 30; height: 1fr; border: none; border-right: solid $surface-lighten-2; }
#said { height: 1fr; border: none; padding: 0; scrollbar-gutter: stable; }
#said > .option-list--option { padding: 0 1; }
#said > .option-list--option-disabled { color: $text-muted; }
#said:blur > .option-list--option-highlighted { background: transparent; color: $foreground; text-style: none; }
#status, #title { height: 1; padding: 0 1; background: $panel; }
#status.offline { background: $warning 50%; }
Writing { height: auto; max-height: 8; min-height: 3; border: round $primary; }
.-narrow #conversations { display: none; width: 1fr; border: none; }
.-narrow.-choosing #conversations { display: block; }
.-narrow.-choosing #talk { display: none; }
.-short Footer { display: none; }
.-short Writing { max-height: 4; }
"""
NARROW, SHORT = 70, 18  # from there on there is room for both columns, for the line of keys
KEYS: list[BindingType] = [
    Binding("f1", "keys", "Help"),
    Binding("ctrl+t", "conversations", "Talks"),
    Binding("ctrl+n", "begin", "New", priority=True),
    Binding("ctrl+f", "search", "Search", priority=True),
    Binding("ctrl+o", "send_file", "File", priority=True),
    Binding("ctrl+p", "people", "People", priority=True),
    Binding("ctrl+r", "try_now", "Connect now", show=False, priority=True),
    Binding("ctrl+q", "quit", "Quit", priority=True),
    Binding("alt+up,ctrl+up", "turn(-1)", show=False, priority=True),
    Binding("alt+down,ctrl+down", "turn(1)", show=False, priority=True),
    Binding("alt+a", "unread", show=False, priority=True),
]
HELP = """\
Anywhere
  Ctrl+T         the conversations: Enter opens one
  Alt+Up, Down   the one above, the one below (Ctrl as well)
  Alt+A          the next one with something unread
  Ctrl+N         a new conversation, with one or several people
  Ctrl+F         search in all that was said, and go there
  Ctrl+O         send a file
  Ctrl+P         who may write to you, who may not, and who asks
  Ctrl+R         try now to reach the server
  Tab            from one part of the screen to the next
  Ctrl+Q         leave; what waits to be sent is kept, and sent next time

Where you write
  Enter          sends; Ctrl+J (or Alt+Enter): a new line
  Up             above the first line: to the messages
  PgUp, PgDn     scroll the messages
  Esc            gives up an answer or an edit; leaves a thread; from the past to the newest

Among the messages (Up, Down, k, j, the mouse; g the first, End the newest)
  Enter, r       answer it
  t              only its thread: what it answers, and what answers it
  o              go to the message that it answers
  e, d           edit it, take it back (if it is yours)
  +              react to it; the same again takes the reaction back
  s              save its files
  x              do not send it, or what changes it, after all; stop sending or saving its files
  w              send it again to those who refused it (x: put that away)
  i              who signed it, to whom it went, and what became of it
  a, x           among the introductions: let the stranger write to you, or not
  Esc            back to where you write

What you write without a connection waits, and leaves by itself when the server is reached again.
Whom you write with sees that you are there, and writing, if you have granted each other to write (not with --quiet).
Yellow words beside a name: the message is signed by another domain than its author's, as all that was born as mail is.
"""
