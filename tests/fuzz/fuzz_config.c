/* A configuration file: parsed, checked over all keys, and read back. */
#include "roles/settings.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_back(const struct config *c, const struct config_key *k)
{
    switch (k->type) {
    case CONFIG_STRING:
        ASSERT(config_string(c, k->name) != NULL || k->fallback == NULL);
        break;
    case CONFIG_LIST:
        for (size_t i = 0; i < config_list_count(c, k->name); i++)
            ASSERT(config_list_item(c, k->name, i)[0] != '\0');
        break;
    case CONFIG_U64:
        ASSERT(config_u64(c, k->name) >= k->min);
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config *c = config_new(settings_keys, settings_key_count);
    struct config_error e = {""};

    if (config_parse(c, "fuzz.yml", slice_of(data, size), &e)) {
        for (size_t i = 0; i < settings_key_count; i++)
            read_back(c, &settings_keys[i]);
        if (!settings_check(c, &e))
            ASSERT(e.text[0] != '\0');
    } else {
        ASSERT(strncmp(e.text, "fuzz.yml:", 9) == 0);
    }
    for (const char *p = e.text; *p != '\0'; p++)
        ASSERT(*p != '\n'); /* One line for the operator, whatever the file holds. */
    config_free(c);
    return 0;
}
