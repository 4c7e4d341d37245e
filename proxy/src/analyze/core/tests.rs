//! Clauses and joins, as ranges of tokens.

use super::*;

fn read(sql: &str) -> (Tokens<'_>, Vec<Core>) {
    let tokens = Tokens::read(sql).unwrap();
    let cores = cores(&tokens).unwrap();
    (tokens, cores)
}

fn text<'a>(tokens: &Tokens<'a>, span: &Span) -> &'a str {
    if span.is_empty() {
        return "";
    }
    &tokens.sql[tokens.list[span.start].span.start..tokens.list[span.end - 1].span.end]
}

/// Clauses are found where they are, whatever stands inside parentheses and CASE.
#[test]
fn clauses() {
    let (t, cores) = read(
        "SELECT DISTINCT a AS x, count(*) n, CASE WHEN a IS NOT DISTINCT FROM 2 THEN 'from' ELSE (SELECT 1 FROM u WHERE 1) END \
         FROM t AS q WHERE a = 1 AND b IN (SELECT c FROM v) GROUP BY a, lower(b) HAVING n > 1 \
         ORDER BY x COLLATE NOCASE DESC NULLS LAST, 2 LIMIT ? OFFSET 5;",
    );
    let core = &cores[0];
    assert!(core.distinct && !core.compound && !core.nested);
    let items: Vec<_> = core.items.iter().map(|item| (text(&t, &item.expr), item.alias.as_deref())).collect();
    assert_eq!(items[0], ("a", Some("x")));
    assert_eq!(items[1], ("count(*)", Some("n")));
    assert_eq!(items[2].1, None);
    assert_eq!(text(&t, core.condition.as_ref().unwrap()), "a = 1 AND b IN (SELECT c FROM v)");
    assert_eq!(core.group_by.iter().map(|span| text(&t, span)).collect::<Vec<_>>(), ["a", "lower(b)"]);
    assert_eq!(text(&t, core.having.as_ref().unwrap()), "n > 1");
    let term = &core.order_by[0];
    assert_eq!((text(&t, &term.expr), text(&t, &term.suffix)), ("x COLLATE NOCASE", "DESC NULLS LAST"));
    assert_eq!((text(&t, core.limit.as_ref().unwrap()), text(&t, core.offset.as_ref().unwrap())), ("?", "5"));
    assert_eq!(cores.len(), 3);
    assert!(cores[1].nested && cores[2].nested);
    assert_eq!(cores[2].sources.as_ref().unwrap()[0].table.as_deref(), Some("v"));
}

/// Joins of all kinds, with their conditions.
#[test]
fn joins() {
    let (t, cores) = read(
        "WITH c AS (SELECT 1) SELECT * FROM a LEFT OUTER JOIN main.b bb ON a.x = bb.x AND 1, c \
         NATURAL JOIN d INDEXED BY i FULL JOIN e AS ee USING (k, \"L\") CROSS JOIN (SELECT 2) s WHERE 1 UNION ALL SELECT 3",
    );
    let sources = cores[1].sources.as_ref().unwrap();
    let seen: Vec<_> =
        sources.iter().map(|s| (s.table.as_deref(), s.known_as.as_str(), s.join, s.merges_columns)).collect();
    assert_eq!(
        seen,
        [
            (Some("a"), "a", Join::Inner, false),
            (Some("b"), "bb", Join::Left, false),
            (None, "c", Join::Inner, false),
            (Some("d"), "d", Join::Inner, true),
            (Some("e"), "ee", Join::Full, true),
            (None, "s", Join::Inner, false),
        ]
    );
    assert_eq!(text(&t, sources[1].on.as_ref().unwrap()), "a.x = bb.x AND 1");
    assert_eq!(sources[4].using, ["k", "l"]);
    assert!(cores[1].compound && cores[3].compound);
    let (_, cores) = read("SELECT * FROM (a JOIN b) WHERE 1");
    assert_eq!(cores[0].sources, None);
    let (_, cores) = read("SELECT * FROM json_each('[]')");
    assert_eq!(cores[0].sources, None);
}
