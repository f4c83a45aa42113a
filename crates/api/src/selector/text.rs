//! Label selectors in text, as queries have them: words and signs, then requirements.

use super::{
    Fault, FaultKind, Operator, Requirement, Selector, SelectorError, label_key_faults, label_value_faults,
};

/// What a text says.
pub(super) fn selector(text: &str) -> Result<Selector, SelectorError> {
    Parser { tokens: tokens(text), at: 0 }.selector()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(&'static str),
    End,
}

impl Token {
    fn text(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Sign(sign) => (*sign).to_owned(),
            Self::End => String::new(),
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];
    let mut rest = text.trim_start();
    let mut tokens = Vec::new();
    while !rest.is_empty() {
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let end = rest.find(|c: char| "=!(),><".contains(c) || c.is_whitespace()).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Token {
        self.tokens.get(self.at).cloned().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn selector(mut self) -> Result<Selector, SelectorError> {
        let mut requirements = Vec::new();
        if self.peek() == Token::End {
            return Ok(Selector::All(requirements));
        }
        loop {
            requirements.push(self.requirement()?);
            match self.next() {
                Token::End => break,
                Token::Sign(",") => match self.peek() {
                    Token::Word(_) | Token::Sign("!") => {}
                    other => return Err(unexpected(&other, "identifier after ','")),
                },
                other => return Err(unexpected(&other, "',' or 'end of string'")),
            }
        }
        // Upstream orders requirements by key; a stable order makes equal selectors print equally.
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Selector::All(requirements))
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek() == Token::Sign("!");
        if absent {
            self.at += 1;
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(unexpected(&other, "identifier")),
        };
        if let Some(why) = label_key_faults(&key).into_iter().next() {
            let kind = FaultKind::Invalid(key);
            return Err(SelectorError::Fault(Fault { field: "key".to_owned(), kind, detail: why }));
        }
        let bare = matches!(self.peek(), Token::End | Token::Sign(","));
        if absent && !bare {
            return Err(unexpected(&self.peek(), "',' or 'end of string'"));
        }
        if bare {
            let operator = if absent { Operator::DoesNotExist } else { Operator::Exists };
            return Ok(Requirement { key, operator, values: Vec::new() });
        }
        let (operator, values) = match self.next() {
            Token::Sign("=" | "==") => (Operator::In, vec![self.exact_value()?]),
            Token::Sign("!=") => (Operator::NotIn, vec![self.exact_value()?]),
            Token::Sign(">") => (Operator::Gt, vec![self.exact_value()?]),
            Token::Sign("<") => (Operator::Lt, vec![self.exact_value()?]),
            Token::Word(word) if word == "in" => (Operator::In, self.value_list()?),
            Token::Word(word) if word == "notin" => (Operator::NotIn, self.value_list()?),
            other => return Err(unexpected(&other, "in, notin, =, ==, !=, gt, lt")),
        };
        check_values(&key, operator, &values)?;
        Ok(Requirement { key, operator, values })
    }

    /// `a=` selects the empty value.
    fn exact_value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            Token::End | Token::Sign(",") => Ok(String::new()),
            Token::Word(word) => {
                self.at += 1;
                Ok(word)
            }
            other => Err(unexpected(&other, "identifier")),
        }
    }

    fn value_list(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(unexpected(&other, "'('")),
        }
        let mut values = Vec::new();
        loop {
            // An empty place between commas is the empty value, as upstream reads it.
            let value = match self.peek() {
                Token::Word(word) => {
                    self.at += 1;
                    word
                }
                Token::Sign("," | ")") => String::new(),
                other => return Err(unexpected(&other, "',', ')' or identifier")),
            };
            if !values.contains(&value) {
                values.push(value);
            }
            match self.next() {
                Token::Sign(")") => break,
                Token::Sign(",") => {}
                other => return Err(unexpected(&other, "',' or ')'")),
            }
        }
        values.sort();
        Ok(values)
    }
}

fn unexpected(found: &Token, expected: &'static str) -> SelectorError {
    SelectorError::Unexpected { found: found.text(), expected }
}

fn check_values(key: &str, operator: Operator, values: &[String]) -> Result<(), SelectorError> {
    let field = format!("values[0][{key}]");
    for value in values {
        let detail = match operator {
            Operator::Gt | Operator::Lt if value.parse::<i64>().is_err() => {
                Some("for 'Gt', 'Lt' operators, the value must be an integer".to_owned())
            }
            _ => label_value_faults(value).into_iter().next(),
        };
        if let Some(detail) = detail {
            let kind = FaultKind::Invalid(value.clone());
            return Err(SelectorError::Fault(Fault { field, kind, detail }));
        }
    }
    Ok(())
}
