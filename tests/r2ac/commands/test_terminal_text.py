"""What others wrote is text on a terminal: it colours nothing, moves no cursor and shows no password."""

import io

import pytest
from rich.console import Console

from conf.one_line import one_line, visible
from r2ac.commands.error_line import print_error
from r2ac.monitoring.panel import LivePanel, PlainLines, Silence


def test_a_name_with_markup_is_shown_as_it_is():
    screen = io.StringIO()
    panel = LivePanel("[red]x[/red] [/]", 10, Console(file=screen, width=100, force_terminal=False))
    panel.event("lost \x1b[2J s3://k:hunter22@host")
    panel.tell("[blue]2 actors[/blue] \x1b[2J s3://k:hunter22@host")
    panel.close()
    assert "[red]x[/red] [/]" in screen.getvalue()
    assert "lost ?[2J s3://***@host" in screen.getvalue()
    assert "[blue]2 actors[/blue] ?[2J s3://***@host" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


@pytest.mark.parametrize("terminal", [PlainLines(), Silence()])
def test_an_event_holds_no_controls_and_no_password(terminal: PlainLines | Silence, capsys: pytest.CaptureFixture[str]):
    terminal.event("two\nlines \x1b]0;title\x07 http://a:hunter22@h")
    shown = "".join(capsys.readouterr())
    assert "two\nlines ?]0;title? http://***@h" in shown


def test_an_error_is_one_line_whatever_its_message_holds(capsys: pytest.CaptureFixture[str]):
    print_error(ValueError("a\nb\x1b[31m \u202egnp.exe " + "x" * 9000))
    error = capsys.readouterr().err
    assert error.startswith("error: a b?[31m ?gnp.exe xxx")
    assert error.count("\n") == 1
    assert len(error) < 2100


def test_what_can_be_seen_stays():
    assert one_line("  Größe 温度\t= 3 ") == "Größe 温度 = 3"
    assert visible("a\n\x00\ud800b") == "a\n??b"
    assert one_line("abc", 2) == "ab..."
