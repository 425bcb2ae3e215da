//! Text for people: tables under upper-case headers, pairs of label and value, single lines.

use comfy_table::{Cell, CellAlignment, Row, Table, presets};

use super::text::{clean, or_dash};

/// A piece of an answer.
#[derive(Debug)]
pub(crate) enum Block {
    /// Columns under headers. A header that ends in `#` is a number's, aligned to the right,
    /// and printed without it.
    Table {
        /// Upper case, without spaces, stable: scripts cut columns by them.
        header: &'static [&'static str],
        /// As many cells as the header has.
        rows: Vec<Vec<String>>,
    },
    /// Labels and values below each other.
    Pairs(Vec<(&'static str, String)>),
    /// One line.
    Line(String),
}

/// All blocks as text; lines follow each other without a gap.
pub(crate) fn render(blocks: &[Block], colour: bool) -> String {
    let mut text = String::new();
    let mut after_line = true;
    for block in blocks {
        let is_line = matches!(block, Block::Line(_));
        let follows = is_line && after_line;
        if !text.is_empty() && !follows {
            text.push('\n');
        }
        after_line = is_line;
        text.push_str(&one(block, colour));
    }
    text
}

fn one(block: &Block, colour: bool) -> String {
    match block {
        Block::Table { header, rows } => table(header, rows, colour),
        Block::Pairs(pairs) => {
            let width = pairs
                .iter()
                .map(|(label, _)| label.len())
                .max()
                .unwrap_or(0)
                + 2;
            let line = |(label, value): &(&str, String)| {
                let value = or_dash(&clean(value));
                format!("{:width$}{value}\n", format!("{label}:"))
            };
            pairs.iter().map(line).collect()
        }
        Block::Line(text) => format!("{}\n", clean(text)),
    }
}

fn table(header: &[&str], rows: &[Vec<String>], colour: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let numeric: Vec<bool> = header.iter().map(|name| name.ends_with('#')).collect();
    table.set_header(header.iter().map(|name| name.trim_end_matches('#')));
    for row in rows {
        let cells: Row = row
            .iter()
            .map(|cell| Cell::new(or_dash(&clean(cell))))
            .collect::<Vec<_>>()
            .into();
        table.add_row(cells);
    }
    for (column, numeric) in table.column_iter_mut().zip(numeric) {
        column.set_padding((0, 2));
        if numeric {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for (number, line) in table.lines().enumerate() {
        let line = line.trim_end();
        if number == 0 && colour {
            text.push_str(&format!("\x1b[1m{line}\x1b[0m\n"));
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_under_their_headers() {
        let rows = vec![
            vec![
                "web-01".to_owned(),
                "7".to_owned(),
                "first\nsecond".to_owned(),
            ],
            vec!["größer".to_owned(), "1200".to_owned(), String::new()],
        ];
        let text = render(
            &[Block::Table {
                header: &["NAME", "REQUIRED#", "DETAIL"],
                rows,
            }],
            false,
        );
        assert_eq!(
            text,
            "NAME    REQUIRED  DETAIL\n\
             web-01         7  first second\n\
             größer      1200  -\n"
        );
    }

    #[test]
    fn blocks_are_separated_by_an_empty_line() {
        let pairs = || Block::Pairs(vec![("Name", "a".to_owned()), ("Members", String::new())]);
        let line = || Block::Line("end".to_owned());
        let text = render(&[pairs(), line(), line()], false);
        assert_eq!(text, "Name:    a\nMembers: -\n\nend\nend\n");
    }

    #[test]
    fn only_the_header_is_coloured_and_only_for_people() {
        let table = || Block::Table {
            header: &["NAME"],
            rows: vec![vec!["a".to_owned()]],
        };
        assert_eq!(render(&[table()], true), "\x1b[1mNAME\x1b[0m\na\n");
        assert_eq!(render(&[table()], false), "NAME\na\n");
    }
}
