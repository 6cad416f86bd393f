/*
 * A stand-in for libnvidia-ml.so.1: the part of NVML that Tandem asks, answered from the folders of simulated cards.
 *
 * The folders are those that TANDEM_SIMULATED_CARDS lists (folders of cards, separated by colons), read afresh for every
 * question, as they are replaced atomically; a card's number is its place in that order. A use file of a process that
 * ended, or whose pid another process has now, counts for nothing. card.json's `fault`, `hides` and `mig` show as
 * NVML would show them; TANDEM_NVML_WITHOUT (words separated by commas) makes this an older or a poorer library: `v2`
 * and `v3` questions, `temperature`, `utilization`, `graphics`, `health`, `remapping`, `driver`. The XIDs of card.json are
 * told once, as events, to whoever registered for them.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_CARDS 64
#define MAX_USES 256
#define PATH 512

enum {
    SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10,
    FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15, RESET_REQUIRED = 16, UNKNOWN = 999
};

typedef unsigned long long bytes_t;
typedef struct { char folder[PATH], json[4096]; } card_t;
typedef struct { bytes_t total, free, used; } memory_t;
typedef struct { unsigned version; bytes_t total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned pid; bytes_t used; unsigned gpu_instance, compute_instance; } process_t;
typedef struct { unsigned version, sensor; int temperature; } temperature_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { card_t *card; bytes_t type, value; unsigned gpu_instance, compute_instance; } event_t;

static card_t cards[MAX_CARDS];

static int lacks(const char *word) {
    const char *words = getenv("TANDEM_NVML_WITHOUT");
    return words && strstr(words, word) != NULL;
}

static int read_text(const char *path, char *into, size_t size) {
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t got = fread(into, 1, size - 1, file);
    into[got] = 0;
    fclose(file);
    return 1;
}

/* ---- card.json: flat, written by common/gpu/simulated.py, so a search for the key is enough ---- */

static const char *value_of(const card_t *card, const char *key) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *found = strstr(card->json, quoted);
    if (!found) return "";
    for (found += strlen(quoted); isspace((unsigned char)*found); found++) {}
    return found;
}

static bytes_t number_of(const card_t *card, const char *key) { return strtoull(value_of(card, key), NULL, 10); }

static void text_of(const card_t *card, const char *key, char *into, size_t size) {
    const char *value = value_of(card, key);
    size_t length = *value == '"' ? strcspn(++value, "\"") : 0;
    snprintf(into, size, "%.*s", (int)length, value);
}

static int says(const card_t *card, const char *key, const char *expected) {
    char text[64];
    text_of(card, key, text, sizeof text);
    return strcmp(text, expected) == 0;
}

/* ---- the cards of all folders, in order ---- */

static int by_number(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static int numbers_in(const char *folder, int *numbers) {
    DIR *entries = opendir(folder);
    int count = 0;
    if (!entries) return 0;
    for (struct dirent *entry; (entry = readdir(entries)) && count < MAX_CARDS;)
        if (isdigit((unsigned char)entry->d_name[0])) numbers[count++] = atoi(entry->d_name);
    closedir(entries);
    qsort(numbers, count, sizeof *numbers, by_number);
    return count;
}

static unsigned list_cards(void) {
    char folders[4096], path[PATH + 32], *rest = folders;
    unsigned count = 0;
    const char *listed = getenv("TANDEM_SIMULATED_CARDS");
    snprintf(folders, sizeof folders, "%s", listed ? listed : "");
    for (char *folder; (folder = strsep(&rest, ":"));) {
        int numbers[MAX_CARDS], found = numbers_in(folder, numbers);
        for (int i = 0; i < found && count < MAX_CARDS; i++) {
            card_t *card = &cards[count++];
            snprintf(card->folder, PATH, "%s/%d", folder, numbers[i]);
            snprintf(path, sizeof path, "%s/card.json", card->folder);
            if (!read_text(path, card->json, sizeof card->json)) card->json[0] = 0;
        }
    }
    return count;
}

static int state_of(card_t *card) {
    unsigned count = list_cards();
    if (card < cards || card >= cards + count) return INVALID_ARGUMENT;
    if (says(card, "fault", "lost")) return GPU_IS_LOST;
    return says(card, "fault", "reset_required") ? RESET_REQUIRED : SUCCESS;
}

/* ---- the living processes of a card ---- */

static int is_alive(unsigned pid, bytes_t started) {
    char path[64], stat[2048], state;
    bytes_t found;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    if (!read_text(path, stat, sizeof stat)) return 0;
    char *fields = strrchr(stat, ')');
    if (!fields) return 0;
    int got = sscanf(fields + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                     &state, &found);
    return got == 2 && found == started && state != 'Z' && state != 'X';
}

static int number_in(const char *path, bytes_t *number) {
    char content[32], *end;
    if (!read_text(path, content, sizeof content) || !isdigit((unsigned char)content[0])) return 0;
    *number = strtoull(content, &end, 10);
    return *end == 0 || *end == '\n';
}

static unsigned list_uses(const card_t *card, process_t *uses) {
    char folder[PATH + 16], path[PATH + 300];
    unsigned count = 0;
    snprintf(folder, sizeof folder, "%s/processes", card->folder);
    DIR *entries = opendir(folder);
    if (!entries) return 0;
    for (struct dirent *entry; (entry = readdir(entries)) && count < MAX_USES;) {
        unsigned pid;
        bytes_t started, amount;
        int length = 0;
        if (sscanf(entry->d_name, "%u-%llu%n", &pid, &started, &length) != 2 || entry->d_name[length]) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (is_alive(pid, started) && number_in(path, &amount))
            uses[count++] = (process_t){pid, amount, (unsigned)-1, (unsigned)-1};
    }
    closedir(entries);
    return count;
}

static int answer_uses(card_t *card, unsigned *count, process_t *into) {
    process_t uses[MAX_USES];
    int state = state_of(card);
    if (state) return state;
    if (says(card, "hides", "processes")) return NOT_SUPPORTED;
    unsigned found = list_uses(card, uses), room = *count;
    *count = found;
    if (found == 0) return SUCCESS;
    if (!into || room < found) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < found; i++) {
        into[i] = uses[i];
        if (says(card, "hides", "bytes")) into[i].used = (bytes_t)-1;
    }
    return SUCCESS;
}

static int measure(card_t *card, memory_v2_t *memory) {
    process_t uses[MAX_USES];
    int state = state_of(card);
    if (state) return state;
    if (says(card, "fault", "memory_unreadable")) return UNKNOWN;
    memory->total = number_of(card, "total_bytes");
    memory->reserved = number_of(card, "reserved_bytes");
    memory->used = 0;
    for (unsigned i = 0, count = list_uses(card, uses); i < count; i++) memory->used += uses[i].used;
    bytes_t taken = memory->reserved + memory->used;
    memory->free = taken < memory->total ? memory->total - taken : 0;
    return SUCCESS;
}

/* ---- NVML's own names ---- */

EXPORT int nvmlInitWithFlags(unsigned flags) { (void)flags; return lacks("driver") ? DRIVER_NOT_LOADED : SUCCESS; }
EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
EXPORT int nvmlShutdown(void) { return SUCCESS; }
EXPORT const char *nvmlErrorString(int code) { return code == UNKNOWN ? "Unknown Error" : "stand-in error"; }

EXPORT int nvmlSystemGetDriverVersion(char *into, unsigned size) {
    snprintf(into, size, "stand-in");
    return SUCCESS;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *count) {
    if (lacks("driver")) return DRIVER_NOT_LOADED;
    *count = list_cards();
    return SUCCESS;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, card_t **handle) {
    if (index >= list_cards()) return INVALID_ARGUMENT;
    *handle = &cards[index];
    return state_of(*handle);
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, card_t **handle) {
    for (unsigned i = 0, count = list_cards(); i < count; i++)
        if (says(&cards[i], "uuid", uuid)) return nvmlDeviceGetHandleByIndex_v2(i, handle);
    return INVALID_ARGUMENT;
}

EXPORT int nvmlDeviceGetIndex(card_t *card, unsigned *index) {
    *index = (unsigned)(card - cards);
    return state_of(card);
}

EXPORT int nvmlDeviceGetUUID(card_t *card, char *into, unsigned size) {
    int state = state_of(card);
    text_of(card, "uuid", into, size);
    return state;
}

EXPORT int nvmlDeviceGetName(card_t *card, char *into, unsigned size) {
    int state = state_of(card);
    text_of(card, "name", into, size);
    return state;
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(card_t *card, memory_v2_t *memory) {
    return lacks("v2") ? FUNCTION_NOT_FOUND : measure(card, memory);
}

EXPORT int nvmlDeviceGetMemoryInfo(card_t *card, memory_t *memory) {
    memory_v2_t measured;
    int state = measure(card, &measured);
    if (!state) *memory = (memory_t){measured.total, measured.free, measured.total - measured.free};
    return state;
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(card_t *card, unsigned *count, process_t *into) {
    return lacks("v3") ? FUNCTION_NOT_FOUND : answer_uses(card, count, into);
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(card_t *card, unsigned *count, process_t *into) {
    return answer_uses(card, count, into);
}

/* A process that draws is in both of NVML's lists: here every process is. */
EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(card_t *card, unsigned *count, process_t *into) {
    return lacks("graphics") ? NOT_SUPPORTED : answer_uses(card, count, into);
}

EXPORT int nvmlDeviceGetTemperatureV(card_t *card, temperature_t *reading) {
    if (lacks("v2")) return FUNCTION_NOT_FOUND;
    reading->temperature = (int)number_of(card, "temperature_c");
    return lacks("temperature") ? NOT_SUPPORTED : state_of(card);
}

EXPORT int nvmlDeviceGetTemperature(card_t *card, unsigned sensor, unsigned *temperature) {
    (void)sensor;
    *temperature = (unsigned)number_of(card, "temperature_c");
    return lacks("temperature") ? NOT_SUPPORTED : state_of(card);
}

EXPORT int nvmlDeviceGetUtilizationRates(card_t *card, utilization_t *rates) {
    rates->gpu = (unsigned)number_of(card, "utilization_pct");
    rates->memory = 0;
    return lacks("utilization") ? NOT_SUPPORTED : state_of(card);
}

EXPORT int nvmlDeviceGetMigMode(card_t *card, unsigned *current, unsigned *pending) {
    *current = *pending = strncmp(value_of(card, "mig"), "true", 4) == 0;
    return state_of(card);
}

/* ---- health ---- */

EXPORT int nvmlDeviceGetTemperatureThreshold(card_t *card, unsigned kind, unsigned *temperature) {
    *temperature = (unsigned)number_of(card, kind ? "slowdown_c" : "shutdown_c");
    return lacks("health") || kind > 1 ? NOT_SUPPORTED : state_of(card);
}

/* Whether the list under `key` holds `word`; the lists of card.json hold no lists. */
static int holds(const card_t *card, const char *key, const char *word) {
    char quoted[64];
    const char *list = value_of(card, key), *end = strchr(list, ']');
    snprintf(quoted, sizeof quoted, "\"%s\"", word);
    const char *found = strstr(list, quoted);
    return end && found && found < end;
}

EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(card_t *card, bytes_t *reasons) {
    static const struct { const char *word; bytes_t flag; } all[] = {
        {"power-cap", 0x4}, {"hw-slowdown", 0x8}, {"sw-thermal", 0x20}, {"hw-thermal", 0x40}, {"hw-power-brake", 0x80},
    };
    *reasons = 0;
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (holds(card, "throttled", all[i].word)) *reasons |= all[i].flag;
    return lacks("health") ? NOT_SUPPORTED : state_of(card);
}

EXPORT int nvmlDeviceGetCurrentClocksEventReasons(card_t *card, bytes_t *reasons) {
    return lacks("v2") ? FUNCTION_NOT_FOUND : nvmlDeviceGetCurrentClocksThrottleReasons(card, reasons);
}

EXPORT int nvmlDeviceGetPowerUsage(card_t *card, unsigned *milliwatts) {
    *milliwatts = (unsigned)(1000 * number_of(card, "power_w"));
    return lacks("health") ? NOT_SUPPORTED : state_of(card);
}

EXPORT int nvmlDeviceGetEnforcedPowerLimit(card_t *card, unsigned *milliwatts) {
    *milliwatts = (unsigned)(1000 * number_of(card, "power_limit_w"));
    return lacks("health") ? NOT_SUPPORTED : state_of(card);
}

EXPORT int nvmlDeviceGetTotalEccErrors(card_t *card, unsigned type, unsigned counter, bytes_t *count) {
    *count = type == 1 && counter == 0 ? number_of(card, "uncorrected_errors") : 0;
    return lacks("health") ? NOT_SUPPORTED : state_of(card);
}

static unsigned is_true(const card_t *card, const char *key) { return strncmp(value_of(card, key), "true", 4) == 0; }

EXPORT int nvmlDeviceGetRemappedRows(card_t *card, unsigned *fixed, unsigned *broken, unsigned *pending, unsigned *failed) {
    *fixed = *broken = 0;
    *pending = is_true(card, "repair_pending");
    *failed = is_true(card, "repair_failed");
    return lacks("health") || lacks("remapping") ? NOT_SUPPORTED : state_of(card);
}

EXPORT int nvmlDeviceGetRetiredPagesPendingStatus(card_t *card, unsigned *pending) {
    *pending = is_true(card, "repair_pending");
    return lacks("health") ? NOT_SUPPORTED : state_of(card);
}

static int listening[MAX_CARDS], told[MAX_CARDS];

EXPORT int nvmlEventSetCreate(int **set) {
    memset(told, 0, sizeof told);
    *set = listening;
    return lacks("health") ? NOT_SUPPORTED : SUCCESS;
}

EXPORT int nvmlDeviceRegisterEvents(card_t *card, bytes_t types, int *set) {
    int state = state_of(card);
    if (!state && types & 0x8) set[card - cards] = 1;
    return state;
}

static int xid_of(const card_t *card, int place) {
    const char *list = value_of(card, "xids"), *end = strchr(list, ']');
    while (end && (list = strpbrk(list, "0123456789")) && list < end) {
        char *after;
        int xid = (int)strtol(list, &after, 10);
        if (place-- == 0) return xid;
        list = after;
    }
    return -1;
}

EXPORT int nvmlEventSetWait_v2(int *set, event_t *event, unsigned milliseconds) {
    (void)milliseconds;
    for (unsigned i = 0, count = list_cards(); i < count; i++) {
        int xid = set[i] ? xid_of(&cards[i], told[i]) : -1;
        if (xid < 0) continue;
        told[i]++;
        *event = (event_t){&cards[i], 0x8, (bytes_t)xid, 0, 0};
        return SUCCESS;
    }
    return TIMEOUT;
}

EXPORT int nvmlEventSetFree(int *set) {
    memset(set, 0, sizeof listening);
    return SUCCESS;
}
