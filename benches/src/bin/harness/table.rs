//! Medians of the rounds and the Markdown that shows them.

/// The values of one server, round by round, one per column.
pub struct Series {
    pub name: String,
    pub rounds: Vec<Vec<f64>>,
}

/// What is shown of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// The median.
    Median,
    /// The range too, and the ratio to the base.
    Ratio,
}

pub struct Column {
    pub title: &'static str,
    pub decimals: usize,
    pub show: Show,
}

impl Column {
    pub const fn new(title: &'static str, decimals: usize, show: Show) -> Self {
        Self {
            title,
            decimals,
            show,
        }
    }
}

/// A table with a line per server.
pub fn by_server(columns: &[Column], series: &[Series], base: &str) -> String {
    let mut header = vec!["server".to_owned()];
    for column in columns {
        header.push(column.title.to_owned());
        if column.show == Show::Ratio {
            header.push("min–max".to_owned());
            header.push(format!("÷ {base}"));
        }
    }
    let base = series.iter().find(|series| series.name == base);
    let mut rows = Vec::new();
    for line in series {
        let mut row = vec![line.name.clone()];
        for (index, column) in columns.iter().enumerate() {
            let values = line.column(index);
            row.push(number(median(&values), column.decimals));
            if column.show == Show::Ratio {
                row.push(range(&values, column.decimals));
                row.push(match base {
                    Some(base) => ratio(&values, &base.column(index)),
                    None => "–".to_owned(),
                });
            }
        }
        rows.push(row);
    }
    markdown(&header, &rows)
}

impl Series {
    pub fn column(&self, index: usize) -> Vec<f64> {
        self.rounds.iter().map(|round| round[index]).collect()
    }
}

/// The median of the ratios within each round: the rounds are interleaved, so what slows a
/// whole round down, a neighbour on the machine or a lower clock, drops out.
pub fn ratio(values: &[f64], base: &[f64]) -> String {
    let ratios: Vec<f64> = values.iter().zip(base).map(|(a, b)| a / b).collect();
    number(median(&ratios), 2)
}

pub fn range(values: &[f64], decimals: usize) -> String {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{}–{}", number(min, decimals), number(max, decimals))
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// With its thousands apart, or a dash if there is no such number.
pub fn number(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (text.as_str(), String::new()),
    };
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if left % 3 == 0 && !grouped.is_empty() && grouped != "-" {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped + &fraction
}

pub fn markdown(header: &[String], rows: &[Vec<String>]) -> String {
    let mut text = line(header);
    text += "|---|";
    text += &"---:|".repeat(header.len() - 1);
    text.push('\n');
    for row in rows {
        text += &line(row);
    }
    text
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}
