//! The frame of the page, and texts that nothing in them can leave.

/// Letters of one text; the rest is cut.
const LETTERS_MAX: usize = 20_000;

/// A text of the input as HTML, between tags or in a quoted attribute: no markup, no control characters, and
/// none that turn the direction of what follows.
pub(super) fn text(input: &str) -> String {
    let mut out = String::with_capacity(input.len());
    for letter in input.chars().take(LETTERS_MAX) {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push('\n'),
            letter if letter.is_control() || turns(letter) => out.push('\u{fffd}'),
            letter => out.push(letter),
        }
    }
    out
}

/// Whether it changes the direction of text, or can't be seen (Unicode's UAX #9, and zero widths).
fn turns(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Up to the content. Nothing is loaded and nothing runs, whatever the content would be.
pub(super) const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">
<meta name=\"viewport\" content=\"width=device-width\">
<meta name=\"generator\" content=\"namegate report\">
<title>What the gate saw</title>
<style>
:root { color-scheme: light dark; --ink: #1b2430; --paper: #fff; --line: #d5dbe3; --yes: #14713d; --no: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #dfe6ee; --paper: #12171d; --line: #333d49; --yes: #5ec98a; --no: #ff8a80; }
}
body { margin: 0; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
main { max-width: 75rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .15rem .5rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { position: sticky; top: 0; background: var(--paper); }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.yes { color: var(--yes); } .no { color: var(--no); }
details { border-bottom: 1px solid var(--line); padding: .25rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid var(--line); border-radius: 4px; font-size: 13px; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 13px; }
svg .edge { stroke: var(--yes); fill: none; opacity: .55; } svg .edge.bad { stroke: var(--no); }
svg .bar { fill: var(--yes); opacity: .7; }
.span { color: gray; }
</style>
</head>
<body>
<main>
";
