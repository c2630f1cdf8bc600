/* Heads and trailers of link streams, as a broken or hostile node would send them. The first byte says which. What is
 * understood is written again, and must be the same bytes: so there is one encoding for each value. */
#include "roles/words/feed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ROUND_TRIP(type)                                                                                     \
    do {                                                                                                     \
        struct type value;                                                                                   \
                                                                                                             \
        if (in.size <= HEAD_SIZE_MAX && type##_decode(in, &value)) {                                         \
            written = type##_encode(&value, out);                                                            \
            ASSERT(slice_eq(slice_of(out, written), in));                                                    \
        }                                                                                                    \
    } while (0)

static void feed(struct slice in)
{
    char out[FEED_ITEM_SIZE_MAX];
    struct feed_item item;

    if (!feed_open(&in))
        return;
    for (struct slice rest = in; feed_item_decode(&rest, &item); in = rest) {
        size_t size = feed_item_encode(&item, out);

        ASSERT(slice_eq(slice_of(out, size), slice_first(in, in.size - rest.size)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char out[HEAD_SIZE_MAX];
    struct slice in;
    size_t written;

    if (size == 0)
        return 0;
    in = slice_of(data + 1, size - 1);
    switch (data[0] % 8) {
    case 0:
        ROUND_TRIP(login_request);
        break;
    case 1:
        ROUND_TRIP(login_reply);
        break;
    case 2:
        ROUND_TRIP(imap_request);
        break;
    case 3:
        ROUND_TRIP(imap_reply);
        break;
    case 4:
    case 5:
        feed(in);
        break;
    case 6:
        ROUND_TRIP(deliver_request);
        break;
    default:
        ROUND_TRIP(deliver_reply);
        break;
    }
    return 0;
}
