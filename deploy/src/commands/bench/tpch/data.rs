//! TPC-H rows as SQL values, and the tables that take them.

use std::fmt::Display;

use flotilla_shared::value::Value;
use tpchgen::decimal::TPCHDecimal;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};

/// A row.
pub type Row = Vec<Value>;

/// A table with all its rows.
pub struct TableData {
    /// Its name.
    pub name: &'static str,
    /// The statement that makes it.
    pub create: &'static str,
    /// Indexes of the primary key's columns.
    pub key: &'static [usize],
    /// The column to shard by; empty for none.
    pub shard_key: &'static str,
    /// The table that it lies beside.
    pub colocate_with: Option<&'static str>,
    /// Names of its columns.
    pub columns: Vec<&'static str>,
    /// Its rows.
    pub rows: Vec<Row>,
}

fn int(n: impl Into<i64>) -> Value {
    Value::Integer(n.into())
}

fn text(text: impl Display) -> Value {
    Value::Text(text.to_string())
}

fn money(decimal: TPCHDecimal) -> Value {
    Value::Real(decimal.to_string().parse().expect("a decimal"))
}

const REGION: &str = "CREATE TABLE region (r_regionkey INTEGER PRIMARY KEY, r_name TEXT, r_comment TEXT)";
const NATION: &str =
    "CREATE TABLE nation (n_nationkey INTEGER PRIMARY KEY, n_name TEXT, n_regionkey INTEGER, n_comment TEXT)";
const PART: &str = "CREATE TABLE part (p_partkey INTEGER PRIMARY KEY, p_name TEXT, p_mfgr TEXT, p_brand TEXT,
    p_type TEXT, p_size INTEGER, p_container TEXT, p_retailprice REAL, p_comment TEXT)";
const SUPPLIER: &str = "CREATE TABLE supplier (s_suppkey INTEGER PRIMARY KEY, s_name TEXT, s_address TEXT,
    s_nationkey INTEGER, s_phone TEXT, s_acctbal REAL, s_comment TEXT)";
const PARTSUPP: &str = "CREATE TABLE partsupp (ps_partkey INTEGER, ps_suppkey INTEGER, ps_availqty INTEGER,
    ps_supplycost REAL, ps_comment TEXT, PRIMARY KEY (ps_partkey, ps_suppkey))";
const CUSTOMER: &str = "CREATE TABLE customer (c_custkey INTEGER PRIMARY KEY, c_name TEXT, c_address TEXT,
    c_nationkey INTEGER, c_phone TEXT, c_acctbal REAL, c_mktsegment TEXT, c_comment TEXT)";
const ORDERS: &str = "CREATE TABLE orders (o_orderkey INTEGER PRIMARY KEY, o_custkey INTEGER, o_orderstatus TEXT,
    o_totalprice REAL, o_orderdate TEXT, o_orderpriority TEXT, o_clerk TEXT, o_shippriority INTEGER, o_comment TEXT)";
const LINEITEM: &str = "CREATE TABLE lineitem (l_orderkey INTEGER NOT NULL, l_partkey INTEGER, l_suppkey INTEGER,
    l_linenumber INTEGER, l_quantity INTEGER, l_extendedprice REAL, l_discount REAL, l_tax REAL, l_returnflag TEXT,
    l_linestatus TEXT, l_shipdate TEXT, l_commitdate TEXT, l_receiptdate TEXT, l_shipinstruct TEXT, l_shipmode TEXT,
    l_comment TEXT, PRIMARY KEY (l_orderkey, l_linenumber))";

/// All tables at a scale: 1 has six million line items.
pub fn tables(scale: f64) -> Vec<TableData> {
    let plain = |name, create, key, rows| TableData {
        name,
        create,
        key,
        shard_key: "",
        colocate_with: None,
        columns: columns(create),
        rows,
    };
    vec![
        plain("region", REGION, &[0], regions(scale)),
        plain("nation", NATION, &[0], nations(scale)),
        plain("part", PART, &[0], parts(scale)),
        plain("supplier", SUPPLIER, &[0], suppliers(scale)),
        plain("partsupp", PARTSUPP, &[0, 1], part_supps(scale)),
        TableData { shard_key: "c_custkey", ..plain("customer", CUSTOMER, &[0], customers(scale)) },
        TableData { shard_key: "o_orderkey", ..plain("orders", ORDERS, &[0], orders(scale)) },
        TableData {
            shard_key: "l_orderkey",
            colocate_with: Some("orders"),
            ..plain("lineitem", LINEITEM, &[0, 3], line_items(scale))
        },
    ]
}

/// Names behind the opening parenthesis and each comma, up to a table constraint.
fn columns(create: &'static str) -> Vec<&'static str> {
    let list = create.split_once('(').expect("a list of columns").1;
    let names = list.split(',').map(|column| column.split_whitespace().next().expect("a name"));
    names.take_while(|name| *name != "PRIMARY").collect()
}

fn regions(scale: f64) -> Vec<Row> {
    let rows = RegionGenerator::new(scale, 1, 1).iter();
    rows.map(|r| vec![int(r.r_regionkey), text(r.r_name), text(r.r_comment)]).collect()
}

fn nations(scale: f64) -> Vec<Row> {
    let rows = NationGenerator::new(scale, 1, 1).iter();
    rows.map(|n| vec![int(n.n_nationkey), text(n.n_name), int(n.n_regionkey), text(n.n_comment)]).collect()
}

fn parts(scale: f64) -> Vec<Row> {
    let rows = PartGenerator::new(scale, 1, 1).iter();
    rows.map(|p| {
        vec![
            int(p.p_partkey),
            text(p.p_name),
            text(p.p_mfgr),
            text(p.p_brand),
            text(p.p_type),
            int(p.p_size),
            text(p.p_container),
            money(p.p_retailprice),
            text(p.p_comment),
        ]
    })
    .collect()
}

fn suppliers(scale: f64) -> Vec<Row> {
    let rows = SupplierGenerator::new(scale, 1, 1).iter();
    rows.map(|s| {
        vec![
            int(s.s_suppkey),
            text(s.s_name),
            text(s.s_address),
            int(s.s_nationkey),
            text(s.s_phone),
            money(s.s_acctbal),
            text(s.s_comment),
        ]
    })
    .collect()
}

fn part_supps(scale: f64) -> Vec<Row> {
    // Below a scale of 0.01 TPC-H's rule for the suppliers of a part names some of them twice.
    let mut seen = std::collections::HashSet::new();
    let rows = PartSuppGenerator::new(scale, 1, 1).iter().filter(|p| seen.insert((p.ps_partkey, p.ps_suppkey)));
    rows.map(|p| {
        vec![int(p.ps_partkey), int(p.ps_suppkey), int(p.ps_availqty), money(p.ps_supplycost), text(p.ps_comment)]
    })
    .collect()
}

fn customers(scale: f64) -> Vec<Row> {
    let rows = CustomerGenerator::new(scale, 1, 1).iter();
    rows.map(|c| {
        vec![
            int(c.c_custkey),
            text(c.c_name),
            text(c.c_address),
            int(c.c_nationkey),
            text(c.c_phone),
            money(c.c_acctbal),
            text(c.c_mktsegment),
            text(c.c_comment),
        ]
    })
    .collect()
}

fn orders(scale: f64) -> Vec<Row> {
    let rows = OrderGenerator::new(scale, 1, 1).iter();
    rows.map(|o| {
        vec![
            int(o.o_orderkey),
            int(o.o_custkey),
            text(o.o_orderstatus),
            money(o.o_totalprice),
            text(o.o_orderdate),
            text(o.o_orderpriority),
            text(o.o_clerk),
            int(o.o_shippriority),
            text(o.o_comment),
        ]
    })
    .collect()
}

fn line_items(scale: f64) -> Vec<Row> {
    let rows = LineItemGenerator::new(scale, 1, 1).iter();
    rows.map(|l| {
        vec![
            int(l.l_orderkey),
            int(l.l_partkey),
            int(l.l_suppkey),
            int(l.l_linenumber),
            int(l.l_quantity),
            money(l.l_extendedprice),
            money(l.l_discount),
            money(l.l_tax),
            text(l.l_returnflag),
            text(l.l_linestatus),
            text(l.l_shipdate),
            text(l.l_commitdate),
            text(l.l_receiptdate),
            text(l.l_shipinstruct),
            text(l.l_shipmode),
            text(l.l_comment),
        ]
    })
    .collect()
}
