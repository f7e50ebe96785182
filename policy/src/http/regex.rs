//! Regular expressions of HTTP rules: read as RE2 reads them, compiled within bounds.

use std::fmt;

use regex_automata::meta::{Config, Regex};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind, PatternSet, nfa::thompson::WhichCaptures};
use regex_syntax::ast::{self, Ast, Span};
use regex_syntax::hir::translate::TranslatorBuilder;
use regex_syntax::hir::{ErrorKind, Hir, Look};

use crate::limits::{
    REGEX_CACHE_MAX, REGEX_DEPTH_MAX, REGEX_SET_CACHE_MAX, REGEX_SIZE_MAX, REGEX_TEXT_MAX,
};

/// Checks a regular expression of a rule: that it is one, and within bounds.
///
/// The syntax is RE2's; an expression must match the whole text, byte for byte, in its case. All that
/// is matched is ASCII, so `\d`, `\w`, `\s` and `(?i)` are ASCII's. What this reader and RE2 read
/// differently is refused, so that an accepted expression means the same to both: `a++` and other
/// doubled repetitions, `a{,5}`, class arithmetic (`[a&&b]`, `[a--b]`, `[[a]b]`), `\<` and `\>`,
/// `\b{start}`, and the flags `x`, `u` and `R`. What RE2 knows and this reader doesn't is refused too:
/// `\C`, `\Q…\E`, `\pN`, octal escapes, and a brace that isn't escaped and no repetition. Neither knows
/// `\Z`, look-around or back-references.
///
/// # Errors
/// Why it is none, with the position of the character where it goes wrong; or that it is too large.
pub fn check_regex(text: &str) -> Result<(), String> {
    let hir = parse(text)?;
    compile(&hir).map(drop)
}

/// Reads an expression, without the anchors that it will be matched with.
pub(super) fn parse(text: &str) -> Result<Hir, String> {
    if text.len() > REGEX_TEXT_MAX {
        return Err(format!("it is longer than {REGEX_TEXT_MAX} bytes"));
    }
    let at = |reason: &dyn fmt::Display, span: &Span| {
        let before = text.get(..span.start.offset).unwrap_or_default();
        format!("{reason} (at character {})", before.chars().count() + 1)
    };
    let mut parser = ast::parse::ParserBuilder::new();
    let ast = parser.nest_limit(REGEX_DEPTH_MAX).build().parse(text);
    let ast = ast.map_err(|error| at(error.kind(), error.span()))?;
    let foreign = Foreign { text };
    ast::visit(&ast, foreign).map_err(|(reason, span)| at(&reason, &span))?;
    let mut translator = TranslatorBuilder::new();
    translator.unicode(false).utf8(false);
    translator.dot_matches_new_line(true);
    let hir = translator.build().translate(text, &ast);
    hir.map_err(|error| {
        let is_unicode = matches!(error.kind(), ErrorKind::UnicodeNotAllowed);
        let reason: &dyn fmt::Display = match is_unicode {
            true => &"only ASCII can be matched",
            false => error.kind(),
        };
        at(reason, error.span())
    })
}

/// Compiles an expression that must match a whole text.
pub(super) fn compile(hir: &Hir) -> Result<Regex, String> {
    compile_set(std::slice::from_ref(hir), REGEX_SIZE_MAX)
}

/// Compiles many expressions into one automaton of at most so many bytes.
pub(super) fn compile_set(hirs: &[Hir], size_max: usize) -> Result<Regex, String> {
    let whole: Vec<Hir> = hirs.iter().map(anchored).collect();
    let config = Config::new()
        .match_kind(MatchKind::All)
        .utf8_empty(false)
        .auto_prefilter(false)
        .which_captures(WhichCaptures::None)
        .nfa_size_limit(Some(size_max))
        .hybrid_cache_capacity(REGEX_SET_CACHE_MAX.min(hirs.len() * REGEX_CACHE_MAX));
    let built = Regex::builder()
        .configure(config)
        .syntax(syntax::Config::new().unicode(false).utf8(false))
        .build_many_from_hir(&whole);
    built.map_err(|error| match error.size_limit() {
        Some(_) => "it is too large once compiled".to_owned(),
        None => error.to_string(),
    })
}

fn anchored(hir: &Hir) -> Hir {
    Hir::concat(vec![
        Hir::look(Look::Start),
        hir.clone(),
        Hir::look(Look::End),
    ])
}

/// Whether an expression matches a whole text.
pub(super) fn is_match(regex: &Regex, text: &[u8]) -> bool {
    regex.is_match(input(text))
}

/// The numbers of the expressions of a set that match a whole text.
pub(super) fn matches_of(regex: &Regex, text: &[u8]) -> PatternSet {
    let mut found = PatternSet::new(regex.pattern_len());
    regex.which_overlapping_matches(&input(text), &mut found);
    found
}

fn input(text: &[u8]) -> Input<'_> {
    Input::new(text).anchored(Anchored::Yes)
}

/// Looks for what RE2 would read otherwise.
struct Foreign<'t> {
    text: &'t str,
}

type Found = Result<(), (&'static str, Span)>;

impl ast::Visitor for Foreign<'_> {
    type Output = ();
    type Err = (&'static str, Span);

    fn finish(self) -> Found {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Found {
        match ast {
            Ast::Repetition(repetition) => self.check_repetition(repetition),
            Ast::Assertion(assertion) => check_assertion(assertion),
            Ast::Flags(set) => check_flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                ast::GroupKind::NonCapturing(flags) => check_flags(flags),
                ast::GroupKind::CaptureIndex(_) | ast::GroupKind::CaptureName { .. } => Ok(()),
            },
            Ast::Empty(_)
            | Ast::Literal(_)
            | Ast::Dot(_)
            | Ast::ClassUnicode(_)
            | Ast::ClassPerl(_)
            | Ast::ClassBracketed(_)
            | Ast::Alternation(_)
            | Ast::Concat(_) => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Found {
        match item {
            ast::ClassSetItem::Bracketed(inner) => {
                Err(("a `[` in a class must be written `\\[`", inner.span))
            }
            ast::ClassSetItem::Empty(_)
            | ast::ClassSetItem::Literal(_)
            | ast::ClassSetItem::Range(_)
            | ast::ClassSetItem::Ascii(_)
            | ast::ClassSetItem::Unicode(_)
            | ast::ClassSetItem::Perl(_)
            | ast::ClassSetItem::Union(_) => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, operation: &ast::ClassSetBinaryOp) -> Found {
        let reason = "`&&`, `--` and `~~` in a class must be written with a backslash";
        Err((reason, operation.span))
    }
}

impl Foreign<'_> {
    fn check_repetition(&self, repetition: &ast::Repetition) -> Found {
        let span = repetition.op.span;
        if matches!(&*repetition.ast, Ast::Repetition(_)) {
            let reason = "a repetition of a repetition needs parentheses";
            return Err((reason, span));
        }
        let written = self.text.get(span.start.offset..span.end.offset);
        if written.is_some_and(|written| written.starts_with("{,")) {
            return Err(("`{,n}` must be written `{0,n}`", span));
        }
        Ok(())
    }
}

fn check_assertion(assertion: &ast::Assertion) -> Found {
    match assertion.kind {
        ast::AssertionKind::StartLine
        | ast::AssertionKind::EndLine
        | ast::AssertionKind::StartText
        | ast::AssertionKind::EndText
        | ast::AssertionKind::WordBoundary
        | ast::AssertionKind::NotWordBoundary => Ok(()),
        ast::AssertionKind::WordBoundaryStart
        | ast::AssertionKind::WordBoundaryEnd
        | ast::AssertionKind::WordBoundaryStartAngle
        | ast::AssertionKind::WordBoundaryEndAngle
        | ast::AssertionKind::WordBoundaryStartHalf
        | ast::AssertionKind::WordBoundaryEndHalf => Err((
            "of the word boundaries only `\\b` and `\\B` are known",
            assertion.span,
        )),
    }
}

fn check_flags(flags: &ast::Flags) -> Found {
    let foreign = flags.items.iter().find(|item| match item.kind {
        ast::FlagsItemKind::Flag(flag) => match flag {
            ast::Flag::Unicode | ast::Flag::CRLF | ast::Flag::IgnoreWhitespace => true,
            ast::Flag::CaseInsensitive
            | ast::Flag::MultiLine
            | ast::Flag::DotMatchesNewLine
            | ast::Flag::SwapGreed => false,
        },
        ast::FlagsItemKind::Negation => false,
    });
    match foreign {
        Some(item) => Err((
            "of the flags only `i`, `m`, `s` and `U` are known",
            item.span,
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, text: &str) -> bool {
        let regex = compile(&parse(pattern).expect(pattern)).expect(pattern);
        is_match(&regex, text.as_bytes())
    }

    #[test]
    fn an_expression_matches_a_whole_text_in_its_case() {
        for (pattern, text, expected) in [
            ("/public", "/public", true),
            ("/public", "/public/", false),
            ("/public", "/Public", false),
            ("/public", "x/public", false),
            ("/a|/b", "/b", true),
            ("/a|/b", "/ax", false),
            ("/a|/b", "x/b", false),
            ("^/a$", "/a", true),
            ("GET|HEAD", "HEAD", true),
            ("GET", "get", false),
            ("(?i)get", "GeT", true),
            (r"\d+", "12", true),
            (r"\d+", "\u{0661}", false),
            ("a.c", "a\nc", true),
            ("a|ab", "ab", true),
            ("a*?", "aaa", true),
            ("", "", true),
            ("", "x", false),
            ("(?m)^/a$", "/b\n/a", false),
            (r"/a\z", "/a", true),
            ("[[:alpha:]]+", "ab", true),
            ("[]a]+", "a]", true),
        ] {
            assert_eq!(allows(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_with_its_place() {
        for (pattern, expected) in [
            ("/a(b", "unclosed group (at character 3)"),
            ("é(", "unclosed group (at character 2)"),
            (
                "*",
                "repetition operator missing expression (at character 1)",
            ),
            (r"/\C", "unrecognized escape sequence (at character 2)"),
            (r"/\Qa\E", "unrecognized escape sequence (at character 2)"),
            (r"/a\Z", "unrecognized escape sequence (at character 3)"),
            (
                r"(a)\1",
                "backreferences are not supported (at character 4)",
            ),
            (
                "(?=a)",
                "look-around, including look-ahead and look-behind, is not supported (at character 1)",
            ),
            ("a)|(b", "unopened group (at character 2)"),
            (r"\pN", "only ASCII can be matched (at character 1)"),
            ("[é]", "only ASCII can be matched (at character 2)"),
        ] {
            assert_eq!(check_regex(pattern), Err(expected.to_owned()), "{pattern}");
        }
    }

    #[test]
    fn what_re2_reads_otherwise_is_refused() {
        for pattern in [
            "a++",
            "a**",
            "a{2}{3}",
            "a*??",
            "a{,5}",
            "[^/&&x]",
            "[a--b]",
            "[a~~b]",
            "[[a]b]",
            r"\<a",
            r"a\>",
            r"\b{start}a",
            r"\b{end-half}a",
            "(?x)a #",
            "(?x:a)",
            "(?u)a",
            "(?R)a",
            "(?-u)a",
            "/users/{id}",
            "/{",
        ] {
            assert!(check_regex(pattern).is_err(), "{pattern}");
        }
        for pattern in [
            "(a+)+", "a{0,5}", "[^/&]", r"\ba\B", "(?i-s:a)", "(?U)a+", r"\{id\}", "(?P<n>a)",
        ] {
            assert_eq!(check_regex(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn a_hostile_expression_is_refused_at_once() {
        let deep = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
        assert_eq!(check_regex(&deep(REGEX_DEPTH_MAX as usize - 1)), Ok(()));
        assert!(check_regex(&deep(REGEX_DEPTH_MAX as usize + 1)).is_err());
        assert_eq!(check_regex(&"a".repeat(REGEX_TEXT_MAX)), Ok(()));
        assert!(check_regex(&"a".repeat(REGEX_TEXT_MAX + 1)).is_err());
        let size = compile(&parse("(?:a{100}){50}").expect("small")).expect("small");
        assert!(size.memory_usage() < REGEX_SIZE_MAX);
        for pattern in [
            "(?:a{1000}){1000}",
            "((((.{100}){100}){100}){100})",
            r"(?:\w{1000}x){900}",
        ] {
            let error = "it is too large once compiled".to_owned();
            assert_eq!(check_regex(pattern), Err(error), "{pattern}");
        }
    }

    #[test]
    fn what_a_thread_remembers_is_bounded() {
        let mut state = 1_u32;
        let text: Vec<u8> = (0..6_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if state >> 31 == 0 { b'a' } else { b'b' }
            })
            .collect();
        for (count, bound) in [(1, REGEX_CACHE_MAX), (100, REGEX_SET_CACHE_MAX)] {
            // Each remembers where in the last letters an `a` was: as many states as there are ways.
            let hirs: Vec<Hir> = (0..count)
                .map(|index| parse(&format!("(.*a.{{14}})*b{{{index}}}")).expect("valid"))
                .collect();
            let hostile = compile_set(&hirs, 16 * REGEX_SIZE_MAX).expect("small");
            let mut cache = hostile.create_cache();
            let mut found = PatternSet::new(count);
            hostile.is_match_with(&mut cache, &input(&text));
            hostile.which_overlapping_matches_with(&mut cache, &input(&text), &mut found);
            let bytes = cache.memory_usage();
            assert!(bytes < 2 * bound, "{count}: {bytes}");
        }
    }
}
