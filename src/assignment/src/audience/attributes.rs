//! Which attributes an audience reads, and which ones it needs: if one of those is missing or null, a context is not in
//! the audience, whatever the others are.

use std::collections::BTreeSet;

use super::node::{Node, Operator};
use crate::context::Value;

/// All attributes of an expression, with dots.
pub(super) fn used(root: &Node) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    collect(root, &mut names);
    names
}

fn collect<'n>(node: &'n Node, names: &mut BTreeSet<&'n str>) {
    if let Node::Attribute { full_name, .. } = node {
        names.insert(full_name);
    }
    node.for_each_part(&mut |part| collect(part, names));
}

/// The attributes without which an expression is never true. It can be incomplete, but never contains an attribute that
/// is not needed.
pub(super) fn needed(root: &Node) -> BTreeSet<&str> {
    needed_for(root, Some(true))
}

/// The attributes without which an expression does not have this result or, with `None`, has no result.
fn needed_for(node: &Node, result: Option<bool>) -> BTreeSet<&str> {
    match node {
        Node::Attribute { full_name, .. } => BTreeSet::from([&**full_name]),
        Node::Not(inner) => needed_for(inner, result.map(|result| !result)),
        Node::Logic { any, sides } => {
            let [left, right] = &**sides;
            let (left, right) = (needed_for(left, result), needed_for(right, result));
            // One side alone can make `||` true and `&&` false.
            if result == Some(!*any) { &left | &right } else { &left & &right }
        }
        Node::Conditional(parts) => {
            let [condition, then, otherwise] = &**parts;
            let either = &needed_for(then, result) & &needed_for(otherwise, result);
            &needed_for(condition, None) | &either
        }
        Node::Has(inner) if result == Some(true) => needed_for(inner, None),
        Node::IsNull(inner) if result == Some(false) => needed_for(inner, None),
        Node::Has(_) | Node::IsNull(_) => BTreeSet::new(),
        Node::Binary(Operator::In, sides) => match &**sides {
            // A missing value is in a list that contains null.
            [_, Node::Literal(Value::List(items))] if items.contains(&Value::Null) => BTreeSet::new(),
            // An item of such a list can be null.
            [_, right @ Node::List(_)] => needed_for(right, None),
            [left, right] => &needed_for(left, None) | &needed_for(right, None),
        },
        // The body is not evaluated for an empty list.
        Node::Loop(node) => needed_for(&node.over, None),
        _ => {
            let mut names = BTreeSet::new();
            node.for_each_part(&mut |part| names.extend(needed_for(part, None)));
            names
        }
    }
}
