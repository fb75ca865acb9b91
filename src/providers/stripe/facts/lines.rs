//! What an invoice or a checkout session sold, line by line.
//!
//! Lines only decide which rate holds for which part of a sale, so one that cannot be read is no reason to
//! refuse the event: the sale then has no lines, and the program's rate holds for all of it.

use serde::Deserialize;
use serde_json::Value;

use crate::domain::fact::Item;

/// A list of lines. Source: docs.stripe.com/api/invoice-line-item/object; the lines of a session stand in
/// the event only where it was expanded.
#[derive(Deserialize)]
pub(super) struct Lines {
    data: Vec<Line>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct Line {
    /// Before discounts and tax that is not included; of a session's line, `amount_total`.
    amount: Option<i64>,
    amount_total: Option<i64>,
    /// Since 2025-03-31.
    pricing: Option<Pricing>,
    /// Before.
    price: Option<Price>,
}

#[derive(Deserialize)]
struct Pricing {
    price_details: Option<PriceDetails>,
}

#[derive(Deserialize)]
struct PriceDetails {
    #[serde(default)]
    price: Value,
    #[serde(default)]
    product: Value,
}

#[derive(Deserialize)]
struct Price {
    id: Option<String>,
    #[serde(default)]
    product: Value,
}

/// An id, or the object that it was expanded to.
fn id(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("id").and_then(Value::as_str)).map(str::to_owned)
}

impl Lines {
    /// The lines, or none where the event holds only the first of them: a part of the lines would give
    /// their rates to the whole sale.
    pub(super) fn items(self) -> Vec<Item> {
        if self.has_more {
            return Vec::new();
        }
        let items = self.data.into_iter().map(Line::item).collect::<Option<Vec<Item>>>();
        items.unwrap_or_default()
    }
}

impl Line {
    fn item(self) -> Option<Item> {
        let amount = self.amount.or(self.amount_total)?;
        let (price, product) = match (self.pricing.and_then(|pricing| pricing.price_details), self.price) {
            (Some(details), _) => (id(&details.price), id(&details.product)),
            (None, Some(price)) => (price.id, id(&price.product)),
            (None, None) => (None, None),
        };
        Some(Item { price, product, amount })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn items(lines: Value) -> Vec<Item> {
        serde_json::from_value::<Lines>(lines).unwrap().items()
    }

    fn item(price: Option<&str>, product: Option<&str>, amount: i64) -> Item {
        Item { price: price.map(str::to_owned), product: product.map(str::to_owned), amount }
    }

    #[test]
    fn lines_name_their_price_and_product_in_either_shape() {
        let new =
            json!({"amount": 500, "pricing": {"price_details": {"price": "price_1", "product": "prod_1"}}});
        let old = json!({"amount": -100, "price": {"id": "price_2", "product": {"id": "prod_2"}}});
        let bare = json!({"amount_total": 7});
        assert_eq!(
            items(json!({"data": [new, old, bare], "has_more": false})),
            [
                item(Some("price_1"), Some("prod_1"), 500),
                item(Some("price_2"), Some("prod_2"), -100),
                item(None, None, 7)
            ]
        );
    }

    #[test]
    fn a_part_of_the_lines_is_none_of_them() {
        assert_eq!(items(json!({"data": [{"amount": 5}], "has_more": true})), []);
        assert_eq!(items(json!({"data": [{"amount": 5}, {"quantity": 1}]})), []);
    }
}
