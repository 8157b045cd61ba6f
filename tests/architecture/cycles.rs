//! Modules with the same parent must not depend on each other in a cycle, so that each can be read after those it uses.
//!
//! The module tree and the paths are read from the source with `syn`. A path through a re-export counts as a use of the
//! module that defines the item. Cycles between a module and its parent are allowed. Tests are not checked.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::{self, Visit};
use syn::{Item, UseTree};

use crate::source::{SourceFile, rust_files};

/// A path of a module within its crate; empty for the root.
type ModulePath = Vec<String>;

#[derive(Default)]
struct Module {
    items: BTreeSet<String>,
    /// The path of each imported name, from the crate's root.
    imports: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    /// Every path that the code names, from the crate's root.
    uses: Vec<Vec<String>>,
}

#[derive(Default)]
struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && matches!(&attribute.meta, syn::Meta::List(list) if is_test_condition(&list.tokens.to_string()))
    })
}

/// Whether code with this condition is compiled only in tests. `not(test)` is not such a condition.
fn is_test_condition(condition: &str) -> bool {
    condition.contains("test") && !condition.contains("not")
}

/// Converts a path that starts with `crate`, `self` or `super` to a path from the crate's root. `None` for other paths:
/// they name other crates or imports.
fn from_root(at: &[String], path: &[String]) -> Option<Vec<String>> {
    let (first, mut rest) = path.split_first()?;
    let mut base: Vec<String> = match first.as_str() {
        "crate" => Vec::new(),
        "self" => at.to_vec(),
        "super" => at.split_last()?.1.to_vec(),
        _ => return None,
    };
    while let Some((next, after)) = rest.split_first().filter(|(next, _)| *next == "super") {
        debug_assert_eq!(next, "super");
        base.pop()?;
        rest = after;
    }
    base.extend(rest.iter().cloned());
    Some(base)
}

struct ModuleReader<'a> {
    at: &'a [String],
    module: &'a mut Module,
    submodules: Vec<String>,
    /// Modules with their code in the same file.
    inline_modules: Vec<(String, Vec<Item>)>,
    /// Paths that start with another name, which can be an import.
    other_paths: Vec<Vec<String>>,
}

impl ModuleReader<'_> {
    fn read_use_tree(&mut self, prefix: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.read_use_tree(prefix, &path.tree);
                prefix.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                let name = prefix.last().cloned().unwrap_or_default();
                self.add_import(name, prefix.clone());
            }
            UseTree::Name(name) => {
                let path = [prefix.clone(), vec![name.ident.to_string()]].concat();
                self.add_import(name.ident.to_string(), path);
            }
            UseTree::Rename(rename) if rename.ident == "self" => {
                self.add_import(rename.rename.to_string(), prefix.clone());
            }
            UseTree::Rename(rename) => {
                let path = [prefix.clone(), vec![rename.ident.to_string()]].concat();
                self.add_import(rename.rename.to_string(), path);
            }
            UseTree::Glob(_) => {
                if let Some(path) = self.resolve(prefix) {
                    self.module.uses.push(path.clone());
                    self.module.globs.push(path);
                }
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.read_use_tree(prefix, tree)),
        }
    }

    /// Like [`from_root`], and also resolves `use child::Item`, which names a child without `self`.
    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        from_root(self.at, path).or_else(|| {
            let first = path.first()?;
            self.submodules.contains(first).then(|| [self.at.to_vec(), path.to_vec()].concat())
        })
    }

    fn add_import(&mut self, name: String, path: Vec<String>) {
        if let Some(path) = self.resolve(&path) {
            self.module.uses.push(path.clone());
            self.module.imports.insert(name, path);
        } else {
            self.other_paths.push(path);
        }
    }

    fn add_use(&mut self, path: &[String]) {
        match from_root(self.at, path) {
            Some(path) => self.module.uses.push(path),
            None => self.other_paths.push(path.to_vec()),
        }
    }

    /// Reads all items of the module. Returns its inline modules.
    fn read_items(mut self, items: &[Item]) -> Vec<(String, Vec<Item>)> {
        self.submodules.extend(items.iter().filter_map(|item| match item {
            Item::Mod(module) => Some(module.ident.to_string()),
            _ => None,
        }));
        items.iter().for_each(|item| self.visit_item(item));
        // After `use super::a;`, `a::f()` uses `super::a::f`.
        for path in self.other_paths {
            let import = path.first().and_then(|first| self.module.imports.get(first));
            if let Some(import) = import.filter(|_| path.len() > 1) {
                self.module.uses.push([import, &path[1..]].concat());
            }
        }
        self.inline_modules
    }

    /// Finds the paths in a macro call by their tokens, because macros are not parsed.
    fn read_tokens(&mut self, tokens: proc_macro2::TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let finish = |path: &mut Vec<String>, reader: &mut Self| {
            reader.add_use(path);
            path.clear();
        };
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Ident(ident) => {
                    if colons != 2 {
                        finish(&mut path, self);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                proc_macro2::TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                proc_macro2::TokenTree::Group(group) => {
                    finish(&mut path, self);
                    self.read_tokens(group.stream());
                    colons = 0;
                }
                _ => {
                    finish(&mut path, self);
                    colons = 0;
                }
            }
        }
        finish(&mut path, self);
    }
}

impl<'ast> Visit<'ast> for ModuleReader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = match item {
            Item::Const(i) => (&i.attrs, Some(&i.ident)),
            Item::Enum(i) => (&i.attrs, Some(&i.ident)),
            Item::Fn(i) => (&i.attrs, Some(&i.sig.ident)),
            Item::Mod(i) => (&i.attrs, None),
            Item::Static(i) => (&i.attrs, Some(&i.ident)),
            Item::Struct(i) => (&i.attrs, Some(&i.ident)),
            Item::Trait(i) => (&i.attrs, Some(&i.ident)),
            Item::Type(i) => (&i.attrs, Some(&i.ident)),
            Item::Use(i) => (&i.attrs, None),
            Item::Impl(i) => (&i.attrs, None),
            _ => return visit::visit_item(self, item),
        };
        if is_test(attributes) {
            return;
        }
        if let Some(name) = name {
            self.module.items.insert(name.to_string());
        }
        if let Item::Mod(syn::ItemMod { ident, content: Some((_, items)), .. }) = item {
            self.inline_modules.push((ident.to_string(), items.clone()));
            return;
        }
        visit::visit_item(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.read_use_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add_use(&names);
        visit::visit_path(self, path);
    }

    /// Attributes have paths in their tokens, such as `#[arg(value_parser = crate::parse::duration)]`.
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.read_tokens(list.tokens.clone());
        }
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.read_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}

/// The module of a file: `["a", "b"]` for `src/a/b.rs` and `src/a/b/mod.rs`; `None` for tests.
fn module_path(file: &str, source: &str) -> Option<ModulePath> {
    let inside = file.strip_prefix(source)?.strip_suffix(".rs")?;
    let mut path: ModulePath = inside.split('/').map(str::to_owned).collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        path.pop();
    }
    let test = path.iter().any(|part| part == "tests") || path.first().is_some_and(|part| part == "bin");
    (!test).then_some(path)
}

fn read(files: &[SourceFile], source: &str) -> Crate {
    let files: Vec<_> =
        files.iter().filter_map(|file| Some((module_path(&file.path, source)?, file.text.as_str()))).collect();
    let mut found = Crate::default();
    let parsed = files.iter().map(|(path, text)| (path.clone(), syn::parse_file(text).expect("Rust").items));
    let mut unread: Vec<(ModulePath, Vec<Item>)> = parsed.collect();
    while let Some((path, items)) = unread.pop() {
        let module = found.modules.entry(path.clone()).or_default();
        let reader = ModuleReader {
            at: &path,
            module,
            submodules: Vec::new(),
            inline_modules: Vec::new(),
            other_paths: Vec::new(),
        };
        let inline_modules = reader.read_items(&items);
        unread.extend(inline_modules.into_iter().map(|(name, items)| ([path.clone(), vec![name]].concat(), items)));
    }
    found
}

impl Crate {
    /// The module that defines the item of a path. Follows at most `depth` re-exports.
    fn defining_module(&self, path: &[String], depth: usize) -> Option<ModulePath> {
        let mut at: ModulePath = Vec::new();
        for (index, name) in path.iter().enumerate() {
            let child = [at.clone(), vec![name.clone()]].concat();
            if self.modules.contains_key(&child) {
                at = child;
                continue;
            }
            let module = self.modules.get(&at)?;
            if module.items.contains(name) || depth == 0 {
                return Some(at);
            }
            let rest = || path[index + 1..].to_vec();
            if let Some(import) = module.imports.get(name) {
                return self.defining_module(&[import.clone(), rest()].concat(), depth - 1);
            }
            for glob in &module.globs {
                let through = [glob.clone(), path[index..].to_vec()].concat();
                let defined = self.defining_module(&through, depth - 1).filter(|found| found != &at);
                if let Some(found) =
                    defined.filter(|found| self.modules.get(found).is_some_and(|m| m.items.contains(name)))
                {
                    return Some(found);
                }
            }
            return Some(at);
        }
        Some(at)
    }

    /// For each parent: the children that each of its children uses, with an example of a use.
    fn sibling_uses(&self) -> BTreeMap<ModulePath, BTreeMap<String, BTreeMap<String, String>>> {
        let mut uses: BTreeMap<ModulePath, BTreeMap<String, BTreeMap<String, String>>> = BTreeMap::new();
        for (from, module) in &self.modules {
            for used in &module.uses {
                let Some(to) = self.defining_module(used, 8) else { continue };
                let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if let (Some(one), Some(other)) = (from.get(shared), to.get(shared)) {
                    let example = format!("{} → {}", from.join("::"), used.join("::"));
                    let uses = uses.entry(from[..shared].to_vec()).or_default();
                    uses.entry(one.clone()).or_default().entry(other.clone()).or_insert(example);
                }
            }
        }
        uses
    }
}

/// The modules that `start` uses, directly or through others.
fn reachable(uses: &BTreeMap<String, BTreeMap<String, String>>, start: &str) -> BTreeSet<String> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![start.to_owned()]);
    while let Some(name) = open.pop() {
        for next in uses.get(&name).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    seen
}

/// One line for each use that is part of a cycle among siblings.
fn cycles(found: &Crate) -> Vec<String> {
    let mut lines = Vec::new();
    for (parent, uses) in found.sibling_uses() {
        for (from, to) in &uses {
            for (to, example) in to {
                if reachable(&uses, to).contains(from) {
                    lines.push(format!("{}: {from} uses {to} ({example})", parent.join("::")));
                }
            }
        }
    }
    lines
}

#[test]
fn sibling_modules_form_no_cycle() {
    let files = rust_files();
    let sources: BTreeSet<String> = files
        .iter()
        .filter_map(|file| file.path.split_once("/src/").map(|(folder, _)| format!("{folder}/src/")))
        .collect();
    assert!(sources.len() > 8, "the crates are in src/ and simulations/: {sources:?}");
    let mut found = Vec::new();
    for source in sources {
        found.extend(cycles(&read(&files, &source)).into_iter().map(|line| format!("{source} {line}")));
    }
    assert!(found.is_empty(), "move the shared items to a module that both can use:\n{}", found.join("\n"));
}

#[test]
fn cycle_through_a_re_export_or_a_macro_is_found() {
    let crate_with = |b: &str| {
        let file = |name: &str, text: &str| SourceFile { path: format!("src/x/src/{name}.rs"), text: text.to_owned() };
        let files = [
            file("lib", "mod a; mod b; mod c; pub use b::B;"),
            file("a", "use crate::B; pub struct A(B); pub fn h() {}"),
            file("b", b),
            file("c", "pub fn g() { crate::a::h() } #[cfg(test)] mod tests { use crate::b::B; }"),
        ];
        cycles(&read(&files, "src/x/src/"))
    };
    let found = crate_with("pub struct B; fn f() { html!(p { (super::c::g()) }) }");
    assert_eq!(found.len(), 3, "a uses b, b uses c, c uses a: {found:?}");
    assert_eq!(crate_with("pub struct B;"), Vec::<String>::new());
}

#[test]
fn cycle_is_found_however_a_module_is_named() {
    let uses_a_by = |b: &str| {
        let file = |name: &str, text: &str| SourceFile { path: format!("src/x/src/{name}.rs"), text: text.to_owned() };
        let files = [
            file("lib", "mod p;"),
            file("p", "mod a; mod b;"),
            file("p/a", "use super::b::g; pub fn f() { g() }"),
            file("p/b", b),
        ];
        cycles(&read(&files, "src/x/src/")).len() == 2
    };
    for b in [
        "pub fn g() { super::super::p::a::f() }",
        "use super::a as other; pub fn g() { other::f() }",
        "use crate::p; pub fn g() { p::a::f() }",
        "use super::{self as parent}; pub fn g() { html!(p { (parent::a::f()) }) }",
        "mod inner { use super::super::a; pub fn h() { a::f() } } pub fn g() {}",
        "#[cfg(not(test))] use super::a::f; pub fn g() {}",
        "pub struct G { #[arg(value_parser = super::a::f)] field: u8 }",
    ] {
        assert!(uses_a_by(b), "{b}");
    }
    assert!(!uses_a_by("mod a { pub fn f() {} } pub fn g() { a::f() }"), "another module with the same name");
}
