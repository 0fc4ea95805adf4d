//! The tunnel benchmark stays in layers: no file of `benches/tunnel` imports itself through others,
//! and no folder does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module, such as `peers::catalogue`, and the modules that it imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

#[test]
fn no_file_of_the_benchmark_imports_itself_through_others() {
    let files = files();
    let imports = imports(&files);
    let edges: usize = imports.values().map(BTreeSet::len).sum();
    assert!(
        imports.len() > 25 && edges > 40,
        "not the benchmark: {imports:#?}"
    );
    assert_eq!(circle(imports.clone()), BTreeSet::new());
    assert_eq!(circle(of_folders(&imports)), BTreeSet::new());
}

#[test]
fn the_search_finds_a_circle() {
    let files = |other: &str| {
        BTreeMap::from([
            (
                "a".to_string(),
                "use crate::b::{c::X, d};\n// crate::a\n".to_string(),
            ),
            ("b::c".to_string(), String::new()),
            ("b::d".to_string(), other.to_string()),
        ])
    };
    let sound = imports(&files(""));
    assert_eq!(sound["a"], ["b::c", "b::d"].map(String::from).into());
    assert_eq!(circle(sound), BTreeSet::new());
    let wrong = imports(&files("fn f() { crate::a::f(); }"));
    assert_eq!(circle(wrong), ["a", "b::d"].map(String::from).into());
    let folders = of_folders(&imports(&BTreeMap::from([
        ("a::x".to_string(), "use crate::b::x;".to_string()),
        ("a::y".to_string(), String::new()),
        ("b::x".to_string(), "use crate::a::y;".to_string()),
    ])));
    assert_eq!(circle(folders), ["a", "b"].map(String::from).into());
}

/// The rest after every module whose imports were removed is removed too: the circles, and the
/// modules that import them.
fn circle(mut imports: Imports) -> BTreeSet<String> {
    loop {
        let free: BTreeSet<String> = imports
            .iter()
            .filter(|(_, used)| used.iter().all(|module| !imports.contains_key(module)))
            .map(|(module, _)| module.clone())
            .collect();
        if free.is_empty() {
            return imports.into_keys().collect();
        }
        imports.retain(|module, _| !free.contains(module));
    }
}

fn of_folders(imports: &Imports) -> Imports {
    let top = |module: &String| module.split("::").next().unwrap_or_default().to_string();
    let mut folders = Imports::new();
    for (module, used) in imports {
        let own = top(module);
        let others = used.iter().map(top).filter(|other| *other != own).collect();
        folders
            .entry(own)
            .or_default()
            .append(&mut BTreeSet::from_iter::<BTreeSet<String>>(others));
    }
    folders
}

/// The modules that each file names after `crate::`, in an import or elsewhere.
fn imports(files: &BTreeMap<String, String>) -> Imports {
    let known = |path: &str| {
        files
            .keys()
            .filter(|module| path == *module || path.starts_with(&format!("{module}::")))
            .max_by_key(|module| module.len())
            .cloned()
    };
    let of = |text: &String| {
        let code: Vec<&str> = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default())
            .collect();
        let code = code.join(" ");
        assert!(!code.contains("super::"), "imports begin with crate::");
        code.split("crate::")
            .skip(1)
            .flat_map(paths)
            .filter_map(|path| known(&path))
            .collect()
    };
    files
        .iter()
        .map(|(module, text)| (module.clone(), of(text)))
        .collect()
}

/// The paths that begin here: one, or the members of a braced list, each as far as its first brace.
fn paths(code: &str) -> Vec<String> {
    let path = |text: &str| -> String {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':'))
            .collect()
    };
    let first = path(code);
    match code
        .strip_prefix(&first)
        .and_then(|rest| rest.strip_prefix('{'))
    {
        None => vec![first],
        Some(list) => list
            .split('}')
            .next()
            .unwrap_or_default()
            .split(',')
            .map(|member| first.clone() + &path(member.trim()))
            .collect(),
    }
}

/// Every file of the benchmark by its module, without tests, and without those that only declare modules.
fn files() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/tunnel/src");
    let (mut folders, mut files) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("//! "),
                "{} says not what it is",
                path.display()
            );
            let lines = text.lines().count();
            assert!(lines <= 400, "{} has {lines} lines", path.display());
            let module = path.strip_prefix(&root).unwrap().with_extension("");
            let module = module.to_str().unwrap().replace('/', "::");
            let code = text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
            if module != "main" && !path.with_extension("").is_dir() {
                files.insert(module, code.to_string());
            }
        }
    }
    files
}
