//! Where flows are printed, in the form that is wanted.

use std::io::{self, Write};

use flow::{AgentLine, FieldMask, Line, Printer, Recorded, Table};

use super::Form;

/// Standard output, and what it has seen.
pub(super) struct Sink {
    out: io::StdoutLock<'static>,
    text: String,
    printer: Printer,
    form: Form,
    mask: FieldMask,
    table: Table,
    is_first: bool,
}

impl Sink {
    pub(super) fn new((printer, table): (Printer, Table), form: Form, mask: FieldMask) -> Self {
        Self {
            out: io::stdout().lock(),
            text: String::new(),
            table,
            printer,
            form,
            mask,
            is_first: true,
        }
    }

    /// Prints an event.
    pub(super) fn show(&mut self, read: &Recorded) -> anyhow::Result<()> {
        self.text.clear();
        match self.form {
            Form::Compact => self.compact(read.line()),
            Form::Dict => self.dict(read.line()),
            Form::Json => {
                read.write_json(&self.mask, &mut self.text);
                self.text.push('\n');
            }
            Form::Table => self.row(read.line()),
        }
        self.is_first = false;
        self.flush()
    }

    /// Prints what a daemon did; `as_read` is its line.
    pub(super) fn show_agent(&mut self, line: &AgentLine, as_read: &str) -> anyhow::Result<()> {
        self.text.clear();
        match self.form {
            Form::Compact => {
                self.printer.write_agent(line, &mut self.text);
                self.text.push('\n');
            }
            Form::Dict => {
                if !self.is_first {
                    self.text.push_str(Printer::BETWEEN);
                }
                self.printer.write_dict_agent(line, &mut self.text);
            }
            Form::Json => {
                self.text.push_str(as_read);
                self.text.push('\n');
            }
            Form::Table => self.table.push_agent(line),
        }
        self.is_first = false;
        self.flush()
    }

    /// Prints what had to wait for all.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        self.text.clear();
        if self.form == Form::Table && !self.is_first {
            self.table.write(&mut self.text);
        }
        self.flush()
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.out.write_all(self.text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    fn compact(&mut self, line: &Line) {
        match line {
            Line::Flow(flow) => self.printer.write(flow, &mut self.text),
            Line::LostEvents { lost, time, .. } => {
                self.printer.write_lost(lost, *time, &mut self.text);
            }
        }
        self.text.push('\n');
    }

    fn dict(&mut self, line: &Line) {
        if !self.is_first {
            self.text.push_str(Printer::BETWEEN);
        }
        match line {
            Line::Flow(flow) => self.printer.write_dict(flow, &mut self.text),
            Line::LostEvents { lost, time, .. } => {
                self.printer.write_dict_lost(lost, *time, &mut self.text);
            }
        }
    }

    fn row(&mut self, line: &Line) {
        match line {
            Line::Flow(flow) => self.table.push(flow),
            Line::LostEvents { lost, time, .. } => self.table.push_lost(lost, *time),
        }
    }
}

/// Whether a reader of what is printed has gone.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
