//! The values of specs and the expressions that stand for an application's closures. `java/Parity.java` evaluates alike.

use std::sync::Arc;

use bytes::Bytes;
use kafka_streams::Windowed;
use kafka_streams::serde::{Encoded, HasSerde, Serde, SerdeContext, SerdeError, SharedSerde};
use serde_json::Value as Json;

/// Null, text (ASCII) or a number; `s` and the text or `l` and eight bytes on the wire.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Val {
    Null,
    Text(String),
    Long(i64),
}

impl Val {
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// As stores' rows are compared: the type's letter and the text.
    pub(crate) fn shown(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Text(text) => format!("s{text}").into(),
            Self::Long(number) => format!("l{number}").into(),
        }
    }
}

/// What expressions see of keys and values, whatever their types.
pub(crate) trait Cell: Clone + Send + 'static {
    fn val(&self) -> Val;
}

impl Cell for Val {
    fn val(&self) -> Val {
        self.clone()
    }
}

impl Cell for i64 {
    fn val(&self) -> Val {
        Val::Long(*self)
    }
}

impl<T: Cell> Cell for Option<T> {
    fn val(&self) -> Val {
        self.as_ref().map_or(Val::Null, Cell::val)
    }
}

impl Cell for Windowed<Val> {
    fn val(&self) -> Val {
        Val::Text(format!("{}@{}-{}", text(&self.key), self.start, self.end))
    }
}

#[derive(Debug)]
struct ValSerde;

impl Serde<Val> for ValSerde {
    fn serialize(&self, _: SerdeContext<'_>, value: &Val, out: &mut Vec<u8>) -> Result<Encoded, SerdeError> {
        match value {
            Val::Null => return Ok(Encoded::Null),
            Val::Text(text) => {
                out.push(b's');
                out.extend_from_slice(text.as_bytes());
            }
            Val::Long(number) => {
                out.push(b'l');
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
        Ok(Encoded::Bytes)
    }

    fn deserialize(&self, _: SerdeContext<'_>, bytes: Option<&Bytes>) -> Result<Val, SerdeError> {
        let wrong = |actual| SerdeError::Length { expected: 9, actual };
        match bytes.map(|bytes| bytes.split_first()) {
            None => Ok(Val::Null),
            Some(Some((b's', text))) => Ok(Val::Text(std::str::from_utf8(text)?.to_owned())),
            Some(Some((_, number))) => {
                Ok(Val::Long(i64::from_be_bytes(number.try_into().map_err(|_| wrong(number.len() + 1))?)))
            }
            Some(None) => Err(wrong(0)),
        }
    }

    fn is_null(&self, value: &Val) -> bool {
        value.is_null()
    }
}

impl HasSerde for Val {
    fn serde() -> SharedSerde<Self> {
        Arc::new(ValSerde)
    }
}

/// What an expression's variables are.
#[derive(Clone, Copy, Default)]
pub(crate) struct Env<'a> {
    pub(crate) key: Option<&'a Val>,
    pub(crate) val: Option<&'a Val>,
    pub(crate) agg: Option<&'a Val>,
    pub(crate) other: Option<&'a Val>,
}

pub(crate) fn text(value: &Val) -> String {
    match value {
        Val::Null => String::new(),
        Val::Text(text) => text.clone(),
        Val::Long(number) => number.to_string(),
    }
}

pub(crate) fn number(value: &Val) -> i64 {
    match value {
        Val::Null => 0,
        Val::Long(number) => *number,
        Val::Text(text) => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let is_number =
                (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = if is_number { text.parse().ok() } else { None };
            number.unwrap_or(text.len() as i64)
        }
    }
}

pub(crate) fn truth(value: &Val) -> bool {
    number(value) != 0
}

/// The longest text that `cat` makes: its last characters.
const LONGEST: usize = 24;

/// Evaluates an expression. Variables are strings (`"key"`, `"val"`, `"agg"`, `"other"`), constants are null, numbers
/// and `{"s": "text"}`, calls are arrays (`["cat", a, b]`). Nothing fails: what is no number counts as its length.
pub(crate) fn eval(expression: &Json, env: Env<'_>) -> Val {
    let variable = |value: Option<&Val>| value.cloned().unwrap_or(Val::Null);
    match expression {
        Json::Number(number) => Val::Long(number.as_i64().unwrap_or(0)),
        Json::Object(constant) => {
            Val::Text(constant.get("s").and_then(Json::as_str).unwrap_or_default().to_owned())
        }
        Json::String(name) => match name.as_str() {
            "key" => variable(env.key),
            "val" => variable(env.val),
            "agg" => variable(env.agg),
            "other" => variable(env.other),
            _ => Val::Null,
        },
        Json::Array(call) => self::call(call, env),
        Json::Null | Json::Bool(_) => Val::Null,
    }
}

fn call(call: &[Json], env: Env<'_>) -> Val {
    let function = call.first().and_then(Json::as_str).unwrap_or_default();
    let argument = |at: usize| call.get(at).map_or(Val::Null, |expression| eval(expression, env));
    let flag = |condition: bool| Val::Long(i64::from(condition));
    match function {
        "if" => argument(if truth(&argument(1)) { 2 } else { 3 }),
        "cat" => {
            let whole = text(&argument(1)) + &text(&argument(2));
            Val::Text(whole.get(whole.len().saturating_sub(LONGEST)..).unwrap_or_default().to_owned())
        }
        "sub" => {
            let whole = text(&argument(1));
            let length = whole.len() as i64;
            let from = number(&argument(2)).clamp(0, length);
            let to = from.saturating_add(number(&argument(3)).max(0)).min(length);
            Val::Text(whole.get(from as usize..to as usize).unwrap_or_default().to_owned())
        }
        "len" => Val::Long(text(&argument(1)).len() as i64),
        "int" => Val::Long(number(&argument(1))),
        "add" => Val::Long(number(&argument(1)).wrapping_add(number(&argument(2)))),
        "mod" => Val::Long(number(&argument(1)).rem_euclid(number(&argument(2)).max(1))),
        "eq" => flag(text(&argument(1)) == text(&argument(2))),
        "lt" => flag(number(&argument(1)) < number(&argument(2))),
        "null" => flag(argument(1).is_null()),
        _ => Val::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_evaluated_and_never_fail() {
        let (key, val) = (Val::Text("k".into()), Val::Text("12".into()));
        let env = Env { key: Some(&key), val: Some(&val), ..Env::default() };
        let eval = |text: &str| super::eval(&serde_json::from_str(text).unwrap(), env);
        assert_eq!(eval(r#"["cat", "key", ["add", "val", 1]]"#), Val::Text("k13".into()));
        assert_eq!(eval(r#"["sub", {"s": "abc"}, 1, 9]"#), Val::Text("bc".into()));
        assert_eq!(eval(r#"["if", ["null", "agg"], ["mod", -1, 3], 7]"#), Val::Long(2));
        assert_eq!(eval(r#"["int", {"s": "word"}]"#), Val::Long(4));
        assert_eq!(eval(r#"["no such function"]"#), Val::Null);
    }
}
