/* Replies: RFC 5321 4.2, enhanced codes of RFC 3463. */
#include "net/lmtp/lmtp.h"

const struct lmtp_reply lmtp_replies[LMTP_REPLY_COUNT] = {
#define X(name, code, enhanced, text) {code, enhanced, text},
    LMTP_REPLIES(X)
#undef X
};

/* What came from outside goes back printable: no reply line can be forged with an address. */
static void who_write(struct writer *w, struct slice who)
{
    who.size = MIN(who.size, LMTP_WHO_MAX);
    writer_char(w, '<');
    for (size_t i = 0; i < who.size; i++) {
        uint8_t c = (uint8_t)who.data[i];

        writer_char(w, c < 0x20 || c == 0x7f ? '?' : (char)c);
    }
    writer_text(w, "> ");
}

void lmtp_reply_write_own(struct writer *w, const struct lmtp_reply *r, struct slice who)
{
    writer_u64(w, r->code);
    writer_char(w, ' ');
    if (r->enhanced[0] != '\0') {
        writer_slice(w, slice_str(r->enhanced));
        writer_char(w, ' ');
    }
    if (who.size > 0)
        who_write(w, who);
    writer_slice(w, slice_str(r->text));
    writer_text(w, "\r\n");
}

void lmtp_reply_write(struct writer *w, enum lmtp_reply_id id, struct slice who)
{
    ASSERT(id < LMTP_REPLY_COUNT);
    lmtp_reply_write_own(w, &lmtp_replies[id], who);
}

void lmtp_greeting_write(struct writer *w, struct slice host)
{
    writer_text(w, "220 ");
    writer_slice(w, host);
    writer_text(w, " LMTP ready\r\n");
}

void lmtp_lhlo_write(struct writer *w, struct slice host, uint64_t size_max, bool starttls, bool xclient)
{
    writer_text(w, "250-");
    writer_slice(w, host);
    writer_text(w, "\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n"
                   "250-SMTPUTF8\r\n250-CHUNKING\r\n");
    if (starttls)
        writer_text(w, "250-STARTTLS\r\n");
    if (xclient)
        writer_text(w, "250-XCLIENT ADDR PORT NAME PROTO LOGIN HELO SESSION TTL TIMEOUT\r\n");
    writer_text(w, "250 SIZE");
    if (size_max > 0) {
        writer_char(w, ' ');
        writer_u64(w, size_max);
    }
    writer_text(w, "\r\n");
}
