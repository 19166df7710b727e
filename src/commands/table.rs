/// Columns of text, each as wide as its widest cell.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    /// Without a line of heads.
    pub(super) fn bare() -> Self {
        Self { rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Each row after `indent`; nothing but the last cell of a row ends its line.
    pub(super) fn lines(&self, indent: &str) -> String {
        let mut widths = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut lines = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            lines.push_str(indent);
            lines.push_str(cells.join("  ").trim_end());
            lines.push('\n');
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other_and_lines_end_with_their_text() {
        let mut table = Table::new(&["A", "LONG HEAD", "C"]);
        table.row(["ümlaut", "b", ""].map(str::to_owned));
        table.row(["x", "y", "z"].map(str::to_owned));
        assert_eq!(table.lines("  "), "  A       LONG HEAD  C\n  ümlaut  b\n  x       y          z\n");
    }
}
