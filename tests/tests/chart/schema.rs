// SPDX-License-Identifier: Apache-2.0
//! The schema of the values knows what the values and the agent know. The part for `config` is
//! written from the agent's table of keys: UPDATE_DOCS=1 cargo test -p nodens-tests --test chart schema

use std::collections::BTreeSet;
use std::fs;

use nodens::config::keys::{KEYS, Kind, SECTIONS};
use nodens::config::limits::{CACHE_SIZE, MAX_UPSTREAMS};
use nodens_tests::{helm, yaml};
use serde_json::{Map, Value, json};

/// `ADDRESS`, `ADDRESS:PORT`, `[v6]:PORT` or `env:NAME`.
const UPSTREAM: &str = r"^(env:[A-Za-z_][A-Za-z0-9_]*|[0-9]{1,3}(\.[0-9]{1,3}){3}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)$";

/// A value of the agent's configuration, as far as a schema can say what it is.
fn schema_of(kind: &Kind) -> Value {
    match kind {
        Kind::Version => json!({ "const": 1 }),
        Kind::Domain => json!({ "$ref": "#/definitions/domain" }),
        Kind::Addresses | Kind::Services | Kind::ServicesOrOff | Kind::AddressesOrAuto => {
            json!({ "type": ["array", "string"], "items": { "type": "string" } })
        }
        Kind::Upstreams => json!({
            "type": ["array", "string"],
            "minItems": 1,
            "maxItems": MAX_UPSTREAMS,
            "minLength": 1,
            "items": { "type": "string", "pattern": UPSTREAM },
        }),
        Kind::Count(limit) => {
            json!({ "type": "integer", "minimum": limit.min, "maximum": limit.max })
        }
        Kind::CountOrAuto(limit) => json!({
            "type": ["integer", "string"],
            "minimum": limit.min,
            "maximum": limit.max,
            "pattern": "^auto$",
        }),
        Kind::Answers | Kind::Rewrites | Kind::Sockets => {
            json!({ "type": "array", "items": { "type": "string", "minLength": 1 } })
        }
        Kind::Size(_) => json!({ "$ref": "#/definitions/size" }),
        Kind::Time(_) | Kind::Seconds(_) => json!({ "$ref": "#/definitions/duration" }),
        Kind::Switch(_) => json!({ "type": "boolean" }),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Interface
        | Kind::Path
        | Kind::ResolvConf
        | Kind::ServerName
        | Kind::Dns64
        | Kind::CaFile
        | Kind::Socket(_) => json!({ "type": "string", "minLength": 1 }),
        Kind::Zones => json!({ "type": "array", "items": { "$ref": "#/definitions/zone" } }),
    }
}

fn closed(properties: Map<String, Value>) -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

/// The definition of a zone, and that of the whole file.
fn of_the_agent() -> (Value, Value) {
    let (mut zone, mut file) = (Map::new(), Map::new());
    for (section, _) in SECTIONS {
        let mut keys = Map::new();
        for key in KEYS {
            let schema = schema_of(&key.kind);
            if let Some(name) = key.path.strip_prefix("zones[].") {
                zone.insert(name.to_owned(), schema);
            } else if key.path == section {
                file.insert(section.to_owned(), schema);
            } else if let Some(name) = key.path.strip_prefix(section)
                && let Some(name) = name.strip_prefix('.')
            {
                keys.insert(name.to_owned(), schema);
            }
        }
        if !keys.is_empty() {
            file.insert(section.to_owned(), closed(keys));
        }
    }
    let mut zone = closed(zone);
    zone["required"] = json!(["name"]);
    (zone, closed(file))
}

fn values() -> Value {
    let values = fs::read_to_string(helm::chart().join("values.yaml")).unwrap();
    yaml::documents(&values).unwrap().remove(0)
}

/// Sections whose keys may be left out.
const OPTIONAL: [&str; 6] = [
    "affinity",
    "config",
    "nodeSelector",
    "resources",
    "seLinuxOptions",
    "labels",
];

/// Makes every key required that has a default.
fn require_defaults(schema: &mut Value, values: &Value) {
    let values = values.as_object().unwrap();
    let keys: BTreeSet<_> = values.keys().collect();
    schema["required"] = json!(keys);
    for (name, inner) in values.iter().filter(|(_, inner)| inner.is_object()) {
        let below = &mut schema["properties"][name];
        if !OPTIONAL.contains(&name.as_str()) && below.get("properties").is_some() {
            require_defaults(below, inner);
        }
    }
}

#[test]
fn the_schema_of_the_free_form_is_the_agents_table_of_keys() {
    let path = helm::chart().join("values.schema.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    let (zone, file) = of_the_agent();
    schema["definitions"]["zone"] = zone;
    schema["properties"]["config"] = file;
    for (bound, limit) in [("minimum", CACHE_SIZE.min), ("maximum", CACHE_SIZE.max)] {
        schema["definitions"]["size"][bound] = json!(limit);
    }
    // Helm leaves out what is null: so a key that has a default is missed by its path.
    require_defaults(&mut schema, &values());
    let expected = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    } else {
        assert!(text == expected, "{} is old: make docs", path.display());
    }
}

/// Every place where the schema takes an object and says nothing of its keys.
fn open_objects(schema: &Value, path: &str, open: &mut BTreeSet<String>) {
    match schema {
        Value::Object(keys) => {
            let is_object = keys.get("type").is_some_and(|it| it == "object");
            if is_object && !keys.contains_key("additionalProperties") {
                open.insert(path.to_owned());
            }
            for (name, inner) in keys {
                open_objects(inner, &format!("{path}/{name}"), open);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate() {
                open_objects(inner, &format!("{path}/{index}"), open);
            }
        }
        _ => {}
    }
}

#[test]
fn the_schema_is_closed_everywhere_but_in_volumes_of_rare_kinds() {
    let text = fs::read_to_string(helm::chart().join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let mut open = BTreeSet::new();
    open_objects(&schema, "", &mut open);
    let volumes = [
        "csi",
        "emptyDir",
        "image",
        "persistentVolumeClaim",
        "projected",
    ];
    let mut expected: BTreeSet<_> = volumes
        .map(|kind| format!("/properties/extraVolumes/items/properties/{kind}"))
        .into();
    // Helm's own.
    expected.insert("/properties/global".to_owned());
    assert_eq!(open, expected);
}

#[test]
fn the_schema_knows_the_values_and_no_others() {
    let chart = helm::chart();
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(chart.join("values.schema.json")).unwrap())
            .unwrap();
    let values = values();
    let mut known = BTreeSet::new();
    let mut given = BTreeSet::new();
    for (name, inner) in schema["properties"].as_object().unwrap() {
        // Helm's own; what is free; what Kubernetes defines.
        if ["global", "config", "affinity", "seLinuxOptions"].contains(&name.as_str()) {
            continue;
        }
        match inner.get("properties").and_then(Value::as_object) {
            Some(keys) => known.extend(keys.keys().map(|key| format!("{name}.{key}"))),
            None => {
                known.insert(name.clone());
            }
        }
    }
    for (name, inner) in values.as_object().unwrap() {
        if ["config", "affinity", "seLinuxOptions"].contains(&name.as_str()) {
            continue;
        }
        match inner.as_object() {
            Some(keys) if schema["properties"][name].get("properties").is_some() => {
                given.extend(keys.keys().map(|key| format!("{name}.{key}")));
            }
            _ => {
                given.insert(name.clone());
            }
        }
    }
    assert_eq!(given, known);
}

#[test]
fn every_value_says_what_it_is_for() {
    let values = fs::read_to_string(helm::chart().join("values.yaml")).unwrap();
    let mut above = "";
    let mut silent = Vec::new();
    for line in values.lines() {
        let is_key = !line.trim_start().starts_with(['#', '-']) && line.contains(": ");
        // Sections and what explains itself stand without a comment.
        let explains_itself = [
            "pullPolicy",
            "labels",
            "interval",
            "requests",
            "limits",
            "podAnno",
        ];
        let is_plain = explains_itself.iter().any(|word| line.contains(word));
        if is_key && !is_plain && !above.trim_start().starts_with('#') {
            silent.push(line.to_owned());
        }
        above = line;
    }
    silent.retain(|line| !line.contains("podLabels") && !line.contains("k8s-app"));
    assert!(silent.is_empty(), "{silent:?}");
}
