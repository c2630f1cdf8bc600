#include "net/imap/commands.h"

#define NONE     IMAP_IN_NONE
#define AUTH     IMAP_IN_AUTH
#define SELECTED IMAP_IN_SELECTED
#define ANY      IMAP_IN_ANY

#define KNOWN      IMAP_HAS_KNOWN
#define LOCAL      IMAP_HAS_LOCAL
#define BARRIER    IMAP_HAS_BARRIER
#define STATE      IMAP_HAS_STATE
#define SECRET     IMAP_HAS_SECRET
#define SASL       IMAP_HAS_SASL
#define APPEND     IMAP_HAS_APPEND
#define MUTATES    IMAP_HAS_MUTATES
#define MAY_MUTATE IMAP_HAS_MAY_MUTATE
#define SEQUENCE   IMAP_HAS_SEQUENCE
#define SYNCS      IMAP_HAS_SYNCS

#define UID_PREFIX_SIZE 4 /* "UID " */

static const struct imap_command commands[IMAP_COMMAND_COUNT] = {
#define ROW(id_, name_, states_, attributes_)                                                                \
    [IMAP_##id_] = {.name = (name_),                                                                         \
                    .name_size = sizeof(name_) - 1,                                                          \
                    .id = IMAP_##id_,                                                                        \
                    .states = (states_),                                                                     \
                    .uid = sizeof(name_) > 1 + UID_PREFIX_SIZE && (name_ "    ")[3] == ' ',                  \
                    .attributes = (attributes_)},
    IMAP_COMMANDS(ROW)
#undef ROW
};

const struct imap_command *imap_command_by_id(enum imap_command_id id)
{
    ASSERT((unsigned)id < IMAP_COMMAND_COUNT);
    return &commands[id];
}

const struct imap_command *imap_command_find(struct slice name, bool uid)
{
    size_t prefix = uid ? UID_PREFIX_SIZE : 0;

    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        const struct imap_command *c = &commands[i];

        if (c->name_size == name.size + prefix && c->uid == uid &&
            slice_eq_nocase(slice_of(c->name + prefix, name.size), name))
            return c;
    }
    return NULL;
}
