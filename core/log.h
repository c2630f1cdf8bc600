/* core/log.h -- one line an event, `key=value`, text or JSON, that never blocks a core: lines go to a bounded
 * ring of the shard, a helper thread drains it to standard error; a full ring drops and counts. Libraries
 * return errors; roles log. A warning says what the operator can do. Secrets are never logged; values from
 * outside are escaped, a line is at most 4 KiB. */
#pragma once
#include "core/base.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void log_set_level(enum log_level level);
enum log_level log_get_level(void);
const char *log_level_name(enum log_level level);
bool log_level_parse(struct slice text, enum log_level *level_out);
void log_set_json(bool json);
bool log_enabled(enum log_level level);

/* `event` is a literal in plain words ("delivered", "store: flush failed"); `format` gives the pairs, for
 * instance log_event(LOG_INFO, "session ended", "sid=%s user=%s in=%llu", ...). Untrusted text goes through
 * log_quote(). */
void log_event(enum log_level level, const char *event, const char *format, ...) PRINTF_LIKE(3, 4);
/* Escapes control, quote and non-UTF-8 bytes, cuts at 256; rotates over a few static buffers a thread, so use
 * it in the arguments of one call. */
const char *log_quote(struct slice s);
/* What the error -errno means, as log_quote() writes it. */
const char *log_error(int rc);

/* Starts and ends the draining thread; before and after, lines are written at once: a reader that is stuck costs a
 * second a line, and does not get it. */
int log_start(void);
void log_stop(void);
