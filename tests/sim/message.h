/* tests/sim/message.h -- the messages that virtual clients send: each has a number, in its header and in
 * every line, and its bytes follow from the number alone. */
#pragma once
#include "core/base.h"

#define MESSAGE_FIELD "X-Sim-Id"

/* Size of message `id`, at most MESSAGE_SIZE_MAX. */
#define MESSAGE_SIZE_MAX (1400 * 1024)
size_t message_size(uint32_t id);
/* Writes message_size(id) bytes. CRLF lines, some with a dot first. */
void message_write(uint32_t id, char *out);
/* Does `text` end with message `id`, with nothing but whole header lines before it? Sets their size. */
bool message_matches(uint32_t id, struct slice text, size_t *prefix_size_out);
/* "X-Sim-Id: 17" of a header. */
bool message_id_parse(struct slice header, uint32_t *id_out);
