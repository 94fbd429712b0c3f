# cython: language_level=3
"""Files that are on disk under their names when a call returns: a batch of them, in one trip without the GIL.

Done from Python, each of the ten system calls of a file gives the GIL up and waits for it again, behind an event loop
that always has work; here that happens once for the batch.

1. Every file is created under a temporary name (it must not exist), and written.
2. The disk is told to begin with all of them (`sync_file_range`, a hint), and then every one is synced. A sync waits
   for the disk to empty its cache; those that come at the same time share that, so a few threads of our own do it.
3. Every file is linked to its name, under a shared lock.
4. The directory is synced, and the temporary names are removed.

A step is taken when the one before has succeeded for all. A name that is taken already is no failure of the batch: but
then the caller has to decide, so step 4 is left to him, with the temporary names of those files.
"""

import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AsString
from cpython.mem cimport PyMem_Calloc, PyMem_Free

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <limits.h>
    #include <pthread.h>
    #include <signal.h>
    #include <unistd.h>
    #include <sys/file.h>
    #include <sys/stat.h>
    #include <sys/uio.h>

    #define DURABLE_HELPERS 7
    #define DURABLE_STACK (256 * 1024)
    #define DURABLE_IOV 1024

    typedef struct {
        const char *temporary;
        const char *name;
        struct iovec *pieces;   /* used up while they are written */
        int count;
        int fd;
        int error;
    } durable_file;

    typedef struct {
        durable_file *files;
        int count;
        int next;
    } durable_work;

    static int durable_open(const char *path, int flags, int mode) {
        int fd;
        do fd = open(path, flags | O_CLOEXEC, mode); while (fd < 0 && errno == EINTR);
        return fd;
    }

    static int durable_write(durable_file *f) {
        while (f->count > 0) {
            if (f->pieces->iov_len == 0) { f->pieces++; f->count--; continue; }
            ssize_t n = writev(f->fd, f->pieces, f->count < DURABLE_IOV ? f->count : DURABLE_IOV);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return errno;
            while (f->count > 0 && (size_t)n >= f->pieces->iov_len) {
                n -= f->pieces->iov_len;
                f->pieces++;
                f->count--;
            }
            if (n > 0) {
                f->pieces->iov_base = (char *)f->pieces->iov_base + n;
                f->pieces->iov_len -= n;
            }
        }
        return 0;
    }

    static void *durable_sync_some(void *argument) {
        durable_work *work = argument;
        int i;
        while ((i = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < work->count) {
            durable_file *f = &work->files[i];
            int failed;
            do failed = fdatasync(f->fd); while (failed && errno == EINTR);
            if (failed) f->error = errno;
        }
        return 0;
    }

    /* Helpers that cannot be had are not needed: this thread goes on until nothing is left. */
    static void durable_share(durable_work *work, void *(*function)(void *)) {
        pthread_t helpers[DURABLE_HELPERS];
        int helping = 0;
        if (work->count > 1) {
            pthread_attr_t attributes;
            sigset_t every, before;
            sigfillset(&every);
            pthread_sigmask(SIG_BLOCK, &every, &before);
            if (pthread_attr_init(&attributes) == 0) {
                pthread_attr_setstacksize(&attributes, DURABLE_STACK);
                while (helping < work->count - 1 && helping < DURABLE_HELPERS
                       && pthread_create(&helpers[helping], &attributes, function, work) == 0) helping++;
                pthread_attr_destroy(&attributes);
            }
            pthread_sigmask(SIG_SETMASK, &before, 0);
        }
        function(work);
        while (helping > 0) pthread_join(helpers[--helping], 0);
    }

    static void durable_sync_all(durable_file *files, int count) {
        durable_work work = {files, count, 0};
        if (count > 1) for (int i = 0; i < count; i++) sync_file_range(files[i].fd, 0, 0, SYNC_FILE_RANGE_WRITE);
        durable_share(&work, durable_sync_some);
    }

    static int durable_link_all(durable_file *files, int count, const char *lock, int mode) {
        int failed, taken = 0, fd = durable_open(lock, O_CREAT | O_RDWR, mode);
        if (fd < 0) return -errno;
        do failed = flock(fd, LOCK_SH); while (failed && errno == EINTR);
        if (failed) {
            failed = -errno;
        } else for (int i = 0; i < count; i++) {
            if (link(files[i].temporary, files[i].name) == 0) continue;
            files[i].error = errno;
            if (errno != EEXIST) break;
            taken++;
        }
        close(fd);
        return failed ? failed : taken;
    }

    static int durable_sync_directory(const char *path) {
        int failed, fd = durable_open(path, O_RDONLY | O_DIRECTORY, 0);
        if (fd < 0) return errno;
        do failed = fsync(fd); while (failed && errno == EINTR);
        if (failed) failed = errno;
        close(fd);
        return failed;
    }

    static void *durable_sync_some_directories(void *argument) {
        durable_work *work = argument;
        int i;
        while ((i = __atomic_fetch_add(&work->next, 1, __ATOMIC_RELAXED)) < work->count)
            work->files[i].error = durable_sync_directory(work->files[i].name);
        return 0;
    }

    static void durable_sync_directories(durable_file *files, int count) {
        durable_work work = {files, count, 0};
        durable_share(&work, durable_sync_some_directories);
    }

    static int durable_failed(durable_file *files, int count) {
        for (int i = 0; i < count; i++) if (files[i].error && files[i].error != EEXIST) return 1;
        return 0;
    }

    /* The error of the lock or of the directory; those of the files are in the files. */
    static int durable_publish(durable_file *files, int count, const char *directory, const char *lock, int mode) {
        int opened = 0, outcome = 0, kept = 0;
        for (; opened < count; opened++) {
            durable_file *f = &files[opened];
            f->fd = durable_open(f->temporary, O_CREAT | O_EXCL | O_WRONLY, mode);
            /* EEXIST speaks of the name alone; somebody else's temporary name is a disk not to be trusted */
            if (f->fd < 0) { f->error = errno == EEXIST ? EIO : errno; break; }
            if ((f->error = durable_write(f))) { opened++; break; }
        }
        if (!durable_failed(files, count)) durable_sync_all(files, count);
        for (int i = 0; i < opened; i++) close(files[i].fd);
        if (!durable_failed(files, count)) {
            kept = durable_link_all(files, count, lock, mode);
            if (kept < 0) { outcome = -kept; kept = 0; }
            else if (kept == 0 && !durable_failed(files, count)) outcome = durable_sync_directory(directory);
        }
        if (durable_failed(files, count) || outcome) kept = 0;
        for (int i = 0; i < opened; i++)
            if (!kept || files[i].error != EEXIST) unlink(files[i].temporary);
        return outcome;
    }
    """
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ctypedef struct durable_file:
        const char *temporary
        const char *name
        iovec *pieces
        int count
        int error
    int durable_publish(durable_file *files, int count, const char *directory, const char *lock, int mode) nogil
    void durable_sync_directories(durable_file *files, int count) nogil


def publish(list files, bytes directory, bytes lock, int mode):
    """Write files, sync them, give them their names, sync the directory of the names.

    Args:
        files: Temporary name, name, and octets in pieces, for each.
        directory: Of the names.
        lock: File that is locked, shared, while names are given.
        mode: Of the new files.

    Returns:
        An error number for each file. All 0: everything is on disk. EEXIST: the name was there; the caller settles
            that, syncs the directory, and removes the temporary names of those files. Anything else: the batch has
            failed, and its temporary names are gone.

    Raises:
        OSError: Of the lock or the directory; the temporary names are gone.
    """
    cdef Py_ssize_t count = len(files), total = 0, held = 0, i
    cdef durable_file *batch = NULL
    cdef iovec *vectors = NULL
    cdef Py_buffer *buffers = NULL
    cdef const char *directory_path = directory
    cdef const char *lock_path = lock
    cdef int failed
    # Ours, so that what C points to stays while the GIL is away.
    items = [(temporary, name, tuple(pieces)) for temporary, name, pieces in files]
    for item in items:
        total += len(item[2])
    try:
        batch = <durable_file *> PyMem_Calloc(count + 1, sizeof(durable_file))
        vectors = <iovec *> PyMem_Calloc(total + 1, sizeof(iovec))
        buffers = <Py_buffer *> PyMem_Calloc(total + 1, sizeof(Py_buffer))
        if batch == NULL or vectors == NULL or buffers == NULL:
            raise MemoryError
        for i in range(count):
            temporary, name, pieces = items[i]
            batch[i].temporary = PyBytes_AsString(temporary)
            batch[i].name = PyBytes_AsString(name)
            batch[i].pieces = &vectors[held]
            batch[i].count = len(pieces)
            for piece in pieces:
                PyObject_GetBuffer(piece, &buffers[held], PyBUF_SIMPLE)
                vectors[held].iov_base = buffers[held].buf
                vectors[held].iov_len = buffers[held].len
                held += 1
        with nogil:
            failed = durable_publish(batch, <int> count, directory_path, lock_path, mode)
        if failed:
            raise OSError(failed, os.strerror(failed), os.fsdecode(directory))
        return [batch[i].error for i in range(count)]
    finally:
        for i in range(held):
            PyBuffer_Release(&buffers[i])
        PyMem_Free(buffers)
        PyMem_Free(vectors)
        PyMem_Free(batch)


def sync_directories(list paths):
    """Sync directories, all at the same time; the names in them are on disk afterwards.

    Returns:
        An error number for each; 0: it is synced.
    """
    cdef tuple held = tuple(paths)   # ours, so that what C points to stays while the GIL is away
    cdef Py_ssize_t count = len(held), i
    cdef durable_file *batch = <durable_file *> PyMem_Calloc(count + 1, sizeof(durable_file))
    if batch == NULL:
        raise MemoryError
    try:
        for i in range(count):
            batch[i].name = PyBytes_AsString(held[i])
        with nogil:
            durable_sync_directories(batch, <int> count)
        return [batch[i].error for i in range(count)]
    finally:
        PyMem_Free(batch)
