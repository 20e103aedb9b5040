CREATE TABLE product (
    id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name  text NOT NULL,
    price numeric(10, 2) NOT NULL CHECK (price >= 0)
);

CREATE TABLE customer_order (
    id        bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    customer  text NOT NULL,
    placed_at timestamptz NOT NULL
);

CREATE TABLE order_line (
    order_id   bigint NOT NULL REFERENCES customer_order,
    product_id bigint NOT NULL REFERENCES product,
    quantity   integer NOT NULL CHECK (quantity > 0),
    price      numeric(10, 2) NOT NULL
);

CREATE INDEX ON order_line (order_id);

INSERT INTO product (name, price)
SELECT initcap(style || ' ' || material || ' ' || thing), 4.90 + row_number() OVER ()
FROM unnest(ARRAY['plain', 'foldable', 'vintage', 'compact']) AS style,
     unnest(ARRAY['oak', 'steel', 'linen', 'glass', 'copper']) AS material,
     unnest(ARRAY['bench', 'lamp', 'bowl', 'clock', 'tray']) AS thing;
