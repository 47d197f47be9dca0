//! The application's own settings, typed by serde from the `[app]` table and its own options.
//!
//! A deserializer over [`Node`]s: it keeps places for messages, gives a word of the command line the type that is asked
//! for, and refuses every key that the type does not take, whether or not the type says `deny_unknown_fields`.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::node::{At, Entry, Kind, Mistakes, Node, hint, truth};

/// The settings of the application, merged from all sources.
#[derive(Debug, Default)]
pub(super) struct AppSettings {
    /// One for each key.
    pub(super) entries: Vec<Entry>,
    /// The table's place in the file, if it has one.
    pub(super) at: Option<At>,
    asked: AtomicBool,
}

impl AppSettings {
    pub(super) fn read<T: DeserializeOwned>(&self) -> crate::Result<T> {
        self.asked.store(true, Ordering::Relaxed);
        let read = T::deserialize(Table { entries: &self.entries });
        read.map_err(|wrong: Wrong| {
            let mut mistakes = Mistakes::default();
            let mut path = wrong.path;
            path.push("app".to_owned());
            path.reverse();
            mistakes.add_somewhere(&path.join("."), wrong.at.as_ref().or(self.at.as_ref()), wrong.what);
            match mistakes.into_result() {
                Err(error) => error,
                Ok(()) => unreachable!("one mistake was added above"),
            }
        })
    }

    pub(super) fn unclaimed(&self) -> &[Entry] {
        if self.asked.load(Ordering::Relaxed) { &[] } else { &self.entries }
    }
}

/// What a type did not take.
#[derive(Debug)]
struct Wrong {
    at: Option<At>,
    /// Keys from the inside out.
    path: Vec<String>,
    what: String,
}

impl Wrong {
    /// Adds the place where nothing inside named a nearer one.
    fn at(mut self, at: &At) -> Self {
        self.at.get_or_insert_with(|| at.clone());
        self
    }

    fn inside(mut self, key: &str) -> Self {
        self.path.push(key.to_owned());
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self { at: None, path: Vec::new(), what: what.to_string() }
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::custom(format!("invalid type: {found}, expected {}", in_words(wanted)))
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Self {
        Self::custom(format!("invalid value: {found}, expected {}", in_words(wanted)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let hint = hint(field, expected.iter().copied());
        Self::custom(format!("unknown key `{}`{hint}", field.escape_debug()))
    }
}

/// What is wanted, for somebody who writes a configuration and need not know Rust.
fn in_words(wanted: &dyn Expected) -> String {
    let wanted = wanted.to_string();
    let words = match wanted.as_str() {
        "f32" | "f64" => "a number",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "u8" => "a whole number of 0 to 255",
        "u16" => "a whole number of 0 to 65535",
        "u32" | "u64" | "u128" | "usize" => "a whole number of 0 or more",
        "a map" => "a table",
        "a sequence" => "a list",
        _ => return wanted,
    };
    words.to_owned()
}

/// A table, read as a struct, a map or an enum.
struct Table<'a> {
    entries: &'a [Entry],
}

impl<'de> de::Deserializer<'de> for Table<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_map(Pairs { entries: self.entries.iter(), value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        // A derived struct lists all its fields here, so that a key it does not know can get a hint.
        match self.entries.iter().find(|entry| !fields.contains(&entry.key.as_str())) {
            Some(entry) => Err(<Wrong as de::Error>::unknown_field(&entry.key, fields).at(&entry.at)),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.entries.first() {
            Some(entry) => Err(<Wrong as de::Error>::unknown_field(&entry.key, &[]).at(&entry.at)),
            None => visitor.visit_unit(),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let pairs = Pairs { entries: self.entries.iter(), value: None };
        visitor.visit_enum(MapAccessDeserializer::new(pairs))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf seq tuple tuple_struct map
        identifier ignored_any
    }
}

struct Pairs<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
}

impl<'de> de::MapAccess<'de> for Pairs<'_> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(entry);
        let key: StrDeserializer<'_, Wrong> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|wrong| wrong.at(&entry.at))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let Some(entry) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let value = Item { node: &entry.node, unknown: Some(entry) };
        seed.deserialize(value).map_err(|wrong| {
            // A key that nobody takes is told at its own place, under the table's name.
            let unknown = wrong.at.as_ref() == Some(&entry.at) && wrong.path.is_empty();
            if unknown && wrong.what.starts_with("unknown key") {
                wrong
            } else {
                wrong.at(&entry.node.at).inside(&entry.key)
            }
        })
    }
}

/// One value.
struct Item<'a> {
    node: &'a Node,
    /// The entry to complain about when the type ignores this value.
    unknown: Option<&'a Entry>,
}

impl Item<'_> {
    fn is_word(&self) -> bool {
        matches!(self.node.last().kind, Kind::Word(_) | Kind::Flag)
    }

    /// The word of the command line as `T`, or what else it is.
    fn number<'de, V: Visitor<'de>, T: std::str::FromStr>(
        self,
        visitor: V,
        visit: impl FnOnce(V, T) -> Result<V::Value, Wrong>,
    ) -> Result<V::Value, Wrong> {
        match &self.node.last().kind {
            Kind::Word(word) => match word.parse() {
                Ok(number) => visit(visitor, number),
                Err(_) => Err(de::Error::invalid_type(Unexpected::Str(word), &visitor)),
            },
            _ => de::Deserializer::deserialize_any(self, visitor),
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $number:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            self.number::<V, $number>(visitor, |visitor, number| visitor.$visit(number))
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Item<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.kind {
            Kind::Int(int) | Kind::Octal(int) => visitor.visit_i64(*int),
            Kind::Float(float) => visitor.visit_f64(*float),
            Kind::Bool(flag) => visitor.visit_bool(*flag),
            Kind::Text(text) | Kind::Date(text) => visitor.visit_str(text),
            Kind::Flag => visitor.visit_bool(true),
            // Nobody says which type is wanted (an untagged enum, a flattened map): the first that reads it.
            Kind::Word(word) => match (word.parse::<i64>(), word.parse::<f64>(), word.as_str()) {
                (Ok(int), _, _) => visitor.visit_i64(int),
                (_, Ok(float), _) => visitor.visit_f64(float),
                (_, _, "true") => visitor.visit_bool(true),
                (_, _, "false") => visitor.visit_bool(false),
                _ => visitor.visit_str(word),
            },
            Kind::List(items) => visitor.visit_seq(Items { items: items.iter() }),
            Kind::Repeated(_) => Self { node: self.node.last(), unknown: None }.deserialize_any(visitor),
            Kind::Table(entries) => Table { entries }.deserialize_any(visitor),
        }
    }

    numbers! {
        deserialize_i8 visit_i64 i64, deserialize_i16 visit_i64 i64, deserialize_i32 visit_i64 i64,
        deserialize_i64 visit_i64 i64, deserialize_i128 visit_i128 i128, deserialize_u8 visit_u64 u64,
        deserialize_u16 visit_u64 u64, deserialize_u32 visit_u64 u64, deserialize_u64 visit_u64 u64,
        deserialize_u128 visit_u128 u128, deserialize_f32 visit_f64 f64, deserialize_f64 visit_f64 f64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.last().kind {
            Kind::Word(word) => match truth(word) {
                Some(flag) => visitor.visit_bool(flag),
                None => Err(de::Error::invalid_type(Unexpected::Str(word), &visitor)),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.node.last().kind {
            Kind::Word(word) => visitor.visit_str(word),
            Kind::Flag => Err(de::Error::custom("it needs a value")),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_string(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_string(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_string(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        // An option that was given once is a list of one.
        if self.is_word() {
            return visitor.visit_seq(Items { items: self.node.items().iter() });
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match &self.node.kind {
            Kind::Table(entries) => Table { entries }.deserialize_struct(name, fields, visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match &self.node.last().kind {
            Kind::Text(text) | Kind::Word(text) => {
                let text: StrDeserializer<'_, Wrong> = text.as_str().into_deserializer();
                visitor.visit_enum(text)
            }
            Kind::Table(entries) => Table { entries }.deserialize_enum(name, variants, visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.unknown {
            Some(entry) => Err(<Wrong as de::Error>::unknown_field(&entry.key, &[]).at(&entry.at)),
            None => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! { bytes byte_buf unit unit_struct map }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Wrong> {
        let Some(node) = self.items.next() else { return Ok(None) };
        seed.deserialize(Item { node, unknown: None }).map(Some).map_err(|wrong| wrong.at(&node.at))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}
