//! Sizes: files of at most 800 lines without tests, functions of at most 80.

use std::path::Path;

use super::Finding;
use super::source::Source;

/// Lines of a file, its test modules left out. A longer one holds two subjects.
const FILE_LINES: usize = 800;

/// Lines of a function, blank lines and comments left out. A longer one does two things.
const FUNCTION_LINES: usize = 80;

/// Reports a file or a function that is too long.
pub(super) fn check(path: &Path, source: &Source, found: &mut Vec<Finding>) {
    let lines = lines_without_tests(source);
    if lines > FILE_LINES && !is_test_path(path) {
        let text = format!("{lines} lines without tests; at most {FILE_LINES}: split it");
        found.push(Finding::new(path, 1, text));
    }
    for function in functions(source) {
        if function.lines > FUNCTION_LINES {
            let Function { name, lines, .. } = &function;
            let text = format!("function `{name}` has {lines} lines; at most {FUNCTION_LINES}");
            found.push(Finding::new(path, function.line, text));
        }
    }
}

/// Whether a whole file is test code.
pub(super) fn is_test_path(path: &Path) -> bool {
    let in_directory = path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "benches");
    in_directory || path.file_stem().is_some_and(|stem| stem == "tests")
}

fn lines_without_tests(source: &Source) -> usize {
    let in_tests: usize =
        source.test_ranges().iter().map(|(from, to)| source.line_of(*to) + 1 - source.line_of(*from)).sum();
    source.raw().lines().count().saturating_sub(in_tests)
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

fn functions(source: &Source) -> Vec<Function> {
    let code = source.code();
    source
        .find_word("fn")
        .filter_map(|at| {
            let rest = code[at + 2..].trim_start();
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
            let name = &rest[..end];
            // `fn(u8)` is a type.
            if name.is_empty() {
                return None;
            }
            let (_, close) = source.body_after(at)?;
            Some(Function {
                name: name.to_owned(),
                line: source.line_of(at),
                lines: code_lines(&code[at..=close.min(code.len() - 1)]),
            })
        })
        .collect()
}

fn code_lines(code: &str) -> usize {
    code.lines().filter(|line| !line.trim().is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(path: &str, raw: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(Path::new(path), &Source::new(raw), &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    fn function_of(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    work();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_of_eighty_lines_passes_and_one_more_does_not() {
        assert!(check_text("a.rs", &function_of(80)).is_empty());
        let found = check_text("a.rs", &format!("\n{}", function_of(81)));
        assert_eq!(found, ["a.rs:2: function `long` has 81 lines; at most 80"]);
    }

    #[test]
    fn blank_lines_and_comments_do_not_count() {
        let padding = "    // why\n\n    /* more\n       words */\n".repeat(40);
        let raw = format!("fn short() {{\n{padding}    work();\n}}\n");
        assert!(check_text("a.rs", &raw).is_empty());
    }

    #[test]
    fn braces_in_literals_do_not_end_a_function() {
        let body = "    f('}', \"}\", r#\"}\"#); // }\n".repeat(90);
        let found = check_text("a.rs", &format!("fn long() {{\n{body}}}\n"));
        assert_eq!(found, ["a.rs:1: function `long` has 92 lines; at most 80"]);
    }

    #[test]
    fn a_function_pointer_type_is_no_function() {
        let raw = format!("struct S {{ f: fn(u8) -> u8,\n{}}}\n", "a: u8,\n".repeat(90));
        assert!(check_text("a.rs", &raw).is_empty());
    }

    #[test]
    fn test_modules_do_not_count_for_the_file() {
        let code = "const A: u8 = 1;\n".repeat(800);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// t\n".repeat(500));
        assert!(check_text("a.rs", &format!("{code}{tests}")).is_empty());
        let found = check_text("a.rs", &format!("{code}const B: u8 = 1;\n{tests}"));
        assert_eq!(found, ["a.rs:1: 801 lines without tests; at most 800: split it"]);
    }

    #[test]
    fn test_files_may_be_long() {
        let code = "const A: u8 = 1;\n".repeat(900);
        for path in ["crates/mux/src/tests.rs", "crates/adit/tests/it/main.rs"] {
            assert!(check_text(path, &code).is_empty(), "{path}");
        }
    }
}
