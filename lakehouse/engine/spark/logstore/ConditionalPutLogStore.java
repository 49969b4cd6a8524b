package lakehouse;

import io.delta.storage.HadoopFileSystemLogStore;
import java.io.ByteArrayOutputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InterruptedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Iterator;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ThreadLocalRandom;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FSDataOutputStreamBuilder;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;

/**
 * Delta's log on S3 with any number of writers: a commit is one PUT that the store refuses where the object is there already
 * (If-None-Match). Delta's own log store for S3 looks before it writes, which is safe for one driver only.
 *
 * <p>Every commit carries an id of its own in the object's metadata. A writer whose answer was lost, and whose repeated PUT is then
 * refused, finds its id there and knows that it has committed.
 */
public final class ConditionalPutLogStore extends HadoopFileSystemLogStore {
  private static final String ONLY_IF_ABSENT = "fs.option.create.conditional.overwrite";
  private static final String OBJECT_METADATA = "fs.s3a.create.header.";
  private static final String WRITER = "lakehouse-writer";
  private static final String CONFLICT = "Status Code: 409";
  private static final int ATTEMPTS = 20;

  public ConditionalPutLogStore(Configuration hadoopConf) {
    super(hadoopConf);
  }

  @Override
  public void write(Path path, Iterator<String> actions, Boolean overwrite, Configuration hadoopConf)
      throws IOException {
    FileSystem fs = path.getFileSystem(hadoopConf);
    byte[] content = lines(actions);
    if (overwrite) {
      put(fs.createFile(path).overwrite(true).recursive(), content);
    } else {
      commit(fs, path, content);
    }
  }

  private static void commit(FileSystem fs, Path path, byte[] content) throws IOException {
    String writer = UUID.randomUUID().toString();
    for (int attempt = 1; ; attempt++) {
      // Without overwrite(true) S3A would look first. "must": a file system that does not know the option fails.
      FSDataOutputStreamBuilder<?, ?> file = fs.createFile(path).overwrite(true).recursive();
      file.must(ONLY_IF_ABSENT, true).must(OBJECT_METADATA + WRITER, writer);
      try {
        put(file, content);
        return;
      } catch (IOException failure) {
        // Whatever came: only what lies there tells whether the PUT, or one of those that S3A repeated, was carried out.
        String found = writerOf(fs, path, failure);
        if (writer.equals(found)) {
          return;
        }
        if (found != null) {
          FileAlreadyExistsException taken = new FileAlreadyExistsException(path.toString());
          taken.initCause(failure);
          throw taken;
        }
        if (!isConflict(failure) || attempt == ATTEMPTS) {
          throw failure;
        }
        pause(failure);
      }
    }
  }

  private static byte[] lines(Iterator<String> actions) {
    ByteArrayOutputStream content = new ByteArrayOutputStream();
    while (actions.hasNext()) {
      content.writeBytes((actions.next() + "\n").getBytes(StandardCharsets.UTF_8));
    }
    return content.toByteArray();
  }

  private static void put(FSDataOutputStreamBuilder<?, ?> file, byte[] content) throws IOException {
    FSDataOutputStream out = file.build();
    try {
      out.write(content);
      out.close();
    } catch (Throwable error) {
      out.abort(); // to close it would put what it was given so far in place
      throw error;
    }
  }

  /** One LIST for every thousand files of the log: S3A has no public way to list from a key onwards. */
  @Override
  public Iterator<FileStatus> listFrom(Path path, Configuration hadoopConf) throws IOException {
    FileStatus[] files = path.getFileSystem(hadoopConf).listStatus(path.getParent()); // finds out itself that there is no folder
    return Arrays.stream(files)
        .filter(file -> file.getPath().getName().compareTo(path.getName()) >= 0)
        .sorted(Comparator.comparing(file -> file.getPath().getName()))
        .iterator();
  }

  /** The id of the writer of the object there: null where there is no object, empty where it has none. */
  private static String writerOf(FileSystem fs, Path path, IOException failure) throws IOException {
    try {
      for (Map.Entry<String, byte[]> header : fs.getXAttrs(path).entrySet()) {
        if (header.getKey().equalsIgnoreCase("header." + WRITER)) { // stores change the case
          return new String(header.getValue(), StandardCharsets.UTF_8);
        }
      }
      return "";
    } catch (FileNotFoundException none) {
      return null;
    } catch (IOException unknown) {
      failure.addSuppressed(unknown);
      throw failure;
    }
  }

  /** Whether the store could not tell which of two writers at once came first; it has done nothing, and asks to try again. */
  private static boolean isConflict(IOException failure) {
    return String.valueOf(failure.getMessage()).contains(CONFLICT);
  }

  private static void pause(IOException failure) throws IOException {
    try {
      Thread.sleep(ThreadLocalRandom.current().nextInt(50, 150));
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw (IOException) new InterruptedIOException(interrupted.toString()).initCause(failure);
    }
  }

  @Override
  public Boolean isPartialWriteVisible(Path path, Configuration hadoopConf) {
    return false;
  }
}
