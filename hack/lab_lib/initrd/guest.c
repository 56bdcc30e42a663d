/* The whole system inside a guest of the lab: PID 1 of its initrd, static, no shell.
 *
 * It writes the records of agent/simulation/guest.py to its first disk five times a second (512 bytes in a ring of 64
 * at the beginning of the disk's last MiB, O_DIRECT|O_SYNC), reads each back before the next, and says on its console
 * what was acknowledged. Called as /sbin/poweroff or /sbin/reboot (by the kernel, when Xen asks) it tells PID 1.
 * Words on its console: poweroff, reboot, crash, dirty PAGES (change so many pages a second), deaf (ignore Xen's asking).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define RECORD 512
#define SLOTS 64
#define MIB (1 << 20)
#define PAGE 4096
#define DIRTY_PAGES 12288 /* of the 128 MiB that the smallest guest has */
#define INTERVAL_MS 200

struct record { /* little-endian, as struct.Struct("<8s16s16sQQ") in guest.py */
    char magic[8];
    uint8_t guest[16], boot[16];
    uint64_t sequence, ticks;
    uint8_t filler[RECORD - 60];
    uint32_t crc;
} __attribute__((packed));

static volatile sig_atomic_t asked;
static int deaf, disk = -1, dirty_per_second;
static uint8_t uuid[16], boot[16], *memory;
static uint64_t counter, ticks, ring;

static void on_signal(int number) { asked = number; }

static uint32_t crc32(const uint8_t *data, size_t length) {
    uint32_t crc = ~0u;
    while (length--) {
        crc ^= *data++;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void read_file(const char *path, char *text, size_t size) {
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? 0 : read(fd, text, size - 1);
    text[got < 0 ? 0 : got] = 0;
    if (fd >= 0) close(fd);
}

static void load_modules(void) {
    struct dirent **names;
    int count = scandir("/modules", &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        char path[300];
        snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        int fd = open(path, O_RDONLY);
        if (names[i]->d_name[0] != '.' && syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
            printf("guest: %s: %s\n", path, strerror(errno));
        close(fd);
    }
}

/* The first xvd* that there is; a guest may have none. */
static int open_disk(void) {
    for (int patience = 0; patience < 100; patience++, usleep(100000)) {
        DIR *folder = opendir("/sys/block");
        for (struct dirent *entry; folder && (entry = readdir(folder));) {
            char path[300];
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            if (strncmp(entry->d_name, "xvd", 3) == 0) {
                int fd = open(path, O_RDWR | O_DIRECT | O_SYNC);
                uint64_t size;
                if (fd >= 0 && ioctl(fd, BLKGETSIZE64, &size) == 0) {
                    uint64_t tail = size / 4 < MIB ? size / 4 : MIB;
                    ring = (size - tail) / 4096 * 4096;
                    printf("guest: disk %s of %llu bytes\n", path, (unsigned long long)size);
                    closedir(folder);
                    return fd;
                }
            }
        }
        if (folder) closedir(folder);
    }
    return -1;
}

static void network(const char *cmdline) {
    const char *found = strstr(cmdline, "guest.ip=");
    char text[20] = "";
    if (!found || sscanf(found, "guest.ip=%19[0-9.]", text) != 1) return;
    struct ifreq request = {0};
    struct sockaddr_in *address = (struct sockaddr_in *)&request.ifr_addr;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    for (int patience = 0; patience < 50; patience++, usleep(100000)) {
        strcpy(request.ifr_name, "eth0");
        address->sin_family = AF_INET;
        inet_pton(AF_INET, text, &address->sin_addr);
        if (ioctl(fd, SIOCSIFADDR, &request) == 0) break;
    }
    inet_pton(AF_INET, "255.255.255.0", &address->sin_addr);
    ioctl(fd, SIOCSIFNETMASK, &request);
    ioctl(fd, SIOCGIFFLAGS, &request);
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    printf("guest: eth0 %s %s\n", text, ioctl(fd, SIOCSIFFLAGS, &request) ? strerror(errno) : "up");
    close(fd);
}

static int valid(const struct record *record) {
    return memcmp(record->magic, "XTRECORD", 8) == 0 && memcmp(record->guest, uuid, 16) == 0 &&
           record->crc == crc32((const uint8_t *)record, RECORD - 4);
}

/* The highest sequence number of this guest's records on the disk. */
static uint64_t last_record(struct record *buffer) {
    uint64_t highest = 0;
    if (pread(disk, buffer, RECORD * SLOTS, ring) != RECORD * SLOTS) printf("guest: cannot read the ring\n");
    else
        for (int slot = 0; slot < SLOTS; slot++)
            if (valid(&buffer[slot]) && buffer[slot].sequence > highest) highest = buffer[slot].sequence;
    return highest;
}

/* What was acknowledged last must be on the disk, now and after every move. */
static void check_last(struct record *buffer) {
    if (counter && pread(disk, buffer, RECORD, ring + counter % SLOTS * RECORD) == RECORD &&
        !(valid(buffer) && buffer->sequence == counter))
        printf("guest: LOST record %llu\n", (unsigned long long)counter);
}

static void write_record(struct record *buffer) {
    uint64_t next = counter + 1;
    memset(buffer, 0xa5, RECORD);
    memcpy(buffer->magic, "XTRECORD", 8);
    memcpy(buffer->guest, uuid, 16);
    memcpy(buffer->boot, boot, 16);
    buffer->sequence = next;
    buffer->ticks = ticks;
    buffer->crc = crc32((const uint8_t *)buffer, RECORD - 4);
    int good = pwrite(disk, buffer, RECORD, ring + next % SLOTS * RECORD) == RECORD;
    int why = errno;
    if (good) counter = next;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    printf("tick %llu disk=%s up %lld.%03ld%s%s\n", (unsigned long long)next, good ? "ok" : "FAIL", (long long)t.tv_sec,
           t.tv_nsec / 1000000, good ? "" : " ", good ? "" : strerror(why));
}

static void dirty(int64_t milliseconds) {
    static int next;
    for (int64_t count = dirty_per_second * milliseconds / 1000; count > 0; count--)
        memory[next++ % DIRTY_PAGES * PAGE]++;
}

static void obey(char *line) {
    if (strncmp(line, "poweroff", 8) == 0) asked = SIGUSR1;
    else if (strncmp(line, "reboot", 6) == 0) asked = SIGUSR2;
    else if (strncmp(line, "deaf", 4) == 0) deaf = 1;
    else if (strncmp(line, "crash", 5) == 0) {
        int fd = open("/proc/sysrq-trigger", O_WRONLY);
        if (write(fd, "c", 1) != 1) printf("guest: cannot crash: %s\n", strerror(errno));
    } else if (sscanf(line, "dirty %d", &dirty_per_second) == 1) {
        if (!memory)
            memory = mmap(NULL, DIRTY_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        printf("guest: changes %d pages a second\n", dirty_per_second);
    } else if (line[0] > ' ')
        printf("guest: knows poweroff, reboot, crash, dirty PAGES, deaf; not %s\n", line);
}

static void end(int how) {
    printf("guest: %s\n", how == SIGUSR2 ? "reboots" : "powers off");
    sync();
    reboot(how == SIGUSR2 ? RB_AUTOBOOT : RB_POWER_OFF);
    for (;;) pause();
}

int main(int argc, char **argv) {
    const char *name = argc ? argv[0] : "";
    if (strstr(name, "poweroff")) return kill(1, SIGUSR1);
    if (strstr(name, "reboot")) return kill(1, SIGUSR2);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sys", "/sys", "sysfs", 0, NULL);
    int console = open("/dev/hvc0", O_RDWR | O_NOCTTY);
    for (int fd = 0; fd < 3; fd++) dup2(console, fd);
    setlinebuf(stdout);
    load_modules();
    char text[1024];
    read_file("/sys/hypervisor/uuid", text, sizeof text);
    for (int at = 0, digit = 0; text[at] && digit < 32; at++) {
        int value = text[at] >= 'a' ? text[at] - 'a' + 10 : text[at] - '0';
        if (text[at] != '-') uuid[digit / 2] = uuid[digit / 2] << 4 | value, digit++;
    }
    if (syscall(SYS_getrandom, boot, sizeof boot, 1) != sizeof boot) memcpy(boot, &(int64_t){now_ms()}, 8);
    read_file("/proc/cmdline", text, sizeof text);
    network(text);
    disk = open_disk();
    struct record *buffer = mmap(NULL, RECORD * SLOTS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (disk >= 0) {
        counter = last_record(buffer);
        printf("guest: last record found %llu\n", (unsigned long long)counter);
    } else
        printf("guest: no disk\n");
    char line[80];
    size_t length = 0;
    for (int64_t due = now_ms(), before = due;;) {
        struct pollfd input = {.fd = 0, .events = POLLIN};
        int64_t wait = due - now_ms();
        if (wait > 0 && poll(&input, 1, wait) > 0) {
            ssize_t got = read(0, line + length, sizeof line - 1 - length);
            if (got > 0) length += got;
            line[length] = 0;
            if (strpbrk(line, "\r\n") || length == sizeof line - 1) obey(line), length = 0;
        }
        if (asked && deaf) asked = 0;
        if (asked) end(asked);
        int64_t now = now_ms();
        if (dirty_per_second) dirty(now - before);
        before = now;
        if (now < due) continue;
        ticks++;
        due = now + INTERVAL_MS;
        if (disk < 0) printf("tick %llu no disk\n", (unsigned long long)ticks);
        else {
            check_last(buffer);
            write_record(buffer);
        }
    }
}
