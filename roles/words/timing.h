/* roles/words/timing.h -- which histogram a command's time goes to, on the proxy and on the backend alike. */
#pragma once
#include "core/metrics.h"
#include "net/imap/commands.h"

/* `command` may be NULL: not in the table of commands. */
static inline enum metric_command imap_command_metric(const struct imap_command *command)
{
    static const uint8_t metrics[IMAP_COMMAND_COUNT] = {
        [IMAP_NOOP] = METRIC_COMMAND_NOOP,          [IMAP_CHECK] = METRIC_COMMAND_NOOP,
        [IMAP_SELECT] = METRIC_COMMAND_SELECT,      [IMAP_EXAMINE] = METRIC_COMMAND_SELECT,
        [IMAP_FETCH] = METRIC_COMMAND_FETCH,        [IMAP_UID_FETCH] = METRIC_COMMAND_FETCH,
        [IMAP_STORE] = METRIC_COMMAND_STORE,        [IMAP_UID_STORE] = METRIC_COMMAND_STORE,
        [IMAP_SEARCH] = METRIC_COMMAND_SEARCH,      [IMAP_UID_SEARCH] = METRIC_COMMAND_SEARCH,
        [IMAP_COPY] = METRIC_COMMAND_COPY,          [IMAP_UID_COPY] = METRIC_COMMAND_COPY,
        [IMAP_MOVE] = METRIC_COMMAND_COPY,          [IMAP_UID_MOVE] = METRIC_COMMAND_COPY,
        [IMAP_APPEND] = METRIC_COMMAND_APPEND,      [IMAP_REPLACE] = METRIC_COMMAND_APPEND,
        [IMAP_UID_REPLACE] = METRIC_COMMAND_APPEND,
    };

    return command != NULL ? (enum metric_command)metrics[command->id] : METRIC_COMMAND_OTHER;
}
