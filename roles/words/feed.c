#include "roles/words/feed.h"
#include "roles/words/coder.h"

size_t feed_item_encode(const struct feed_item *item, char *out)
{
    struct encoder e = encode_begin(out, FEED_ITEM_SIZE_MAX, (uint8_t)item->kind);

    if (item->kind == FEED_READY)
        return e.at;
    encode_u32(&e, item->cookie);
    if (item->kind == FEED_WATCH || item->kind == FEED_LEAVE)
        encode_slice(&e, item->user);
    if (item->kind == FEED_WATCH)
        encode_bytes(&e, item->ticket.bytes, TICKET_SIZE);
    if (item->kind == FEED_AT) {
        encode_u64(&e, item->modseq);
        encode_u64(&e, item->mailbox_id);
    }
    return e.at;
}

bool feed_item_decode(struct slice *in, struct feed_item *item_out)
{
    struct decoder d = {.in = *in};
    struct feed_item item = {.kind = decode_u8(&d)};

    if (item.kind < FEED_READY || item.kind > FEED_GONE)
        return false;
    if (item.kind != FEED_READY)
        item.cookie = decode_u32(&d);
    if (item.kind == FEED_WATCH || item.kind == FEED_LEAVE)
        item.user = decode_slice(&d, USER_SIZE_MAX);
    if (item.kind == FEED_WATCH) {
        struct slice ticket = decode_bytes(&d, TICKET_SIZE);

        if (!d.bad)
            memcpy(item.ticket.bytes, ticket.data, TICKET_SIZE);
    }
    if (item.kind == FEED_AT) {
        item.modseq = decode_u64(&d);
        item.mailbox_id = decode_u64(&d);
    }
    if (d.bad)
        return false;
    *in = d.in;
    *item_out = item;
    return true;
}
