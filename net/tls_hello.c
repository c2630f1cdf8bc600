/* A ClientHello, as far as its end. It may come in several records (RFC 8446 5.1). */
#include "net/tls.h"

#define HEADER_SIZE       5
#define MESSAGE_HEADER    4
#define TYPE_HANDSHAKE    22
#define TYPE_CLIENT_HELLO 1

/* `in` begins with a record. Its fragment, as far as it is there. */
static enum tls_hello fragment(struct slice in, struct slice *fragment_out)
{
    static const uint8_t header[] = {TYPE_HANDSHAKE, 3};
    size_t size;

    for (size_t i = 0; i < MIN(in.size, sizeof header); i++) {
        if ((uint8_t)in.data[i] != header[i])
            return TLS_HELLO_BAD;
    }
    if (in.size < HEADER_SIZE)
        return TLS_HELLO_MORE;
    size = (size_t)(uint8_t)in.data[3] << 8 | (uint8_t)in.data[4];
    if (size == 0 || size > TLS_RECORD_MAX)
        return TLS_HELLO_BAD;
    *fragment_out = slice_first(slice_from(in, HEADER_SIZE), MIN(size, in.size - HEADER_SIZE));
    return fragment_out->size == size ? TLS_HELLO_WHOLE : TLS_HELLO_MORE;
}

enum tls_hello tls_hello(struct slice in)
{
    uint8_t header[MESSAGE_HEADER];
    size_t size = 0; /* Of the message that is here. */

    if (in.size > TLS_HELLO_MAX)
        return TLS_HELLO_BAD;
    for (;;) {
        struct slice part = {0};
        enum tls_hello record = fragment(in, &part);
        size_t known = MIN(size, MESSAGE_HEADER), more = MIN(MESSAGE_HEADER - known, part.size);

        if (record == TLS_HELLO_BAD)
            return TLS_HELLO_BAD;
        if (more > 0)
            memcpy(header + known, part.data, more);
        size += part.size;
        if (size > 0 && header[0] != TYPE_CLIENT_HELLO)
            return TLS_HELLO_BAD;
        if (size >= MESSAGE_HEADER) {
            size_t whole = MESSAGE_HEADER + ((size_t)header[1] << 16 | (size_t)header[2] << 8 | header[3]);

            if (whole > TLS_HELLO_MAX)
                return TLS_HELLO_BAD;
            if (size >= whole)
                return TLS_HELLO_WHOLE;
        }
        if (record == TLS_HELLO_MORE)
            return TLS_HELLO_MORE;
        in = slice_from(in, HEADER_SIZE + part.size);
    }
}

void tls_hello_refuse(struct tls_output *out)
{
    static const char alert[] = {21, 3, 1, 0, 2, 2, 50}; /* Fatal: decode_error. */

    tls_output_append(out, slice_of(alert, sizeof alert));
}
