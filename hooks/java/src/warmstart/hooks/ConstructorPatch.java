package warmstart.hooks;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/**
 * Adds the call WarmstartInstances.add(this) to the end of constructors, in the bytes of a class file (JVMS 4). The last
 * instruction, a return, moves behind the call; no other offset changes, so jumps, frames and tables stay right.
 */
final class ConstructorPatch {

    private static final int POOL_OFFSET = 8;
    private static final int ENTRIES = 6;
    private static final int CALL_LENGTH = 4;
    private static final int RETURN = 0xb1;
    private static final int ALOAD_0 = 0x2a;
    private static final int INVOKESTATIC = 0xb8;
    private static final int UTF8 = 1;

    private final ByteBuffer in;
    private final String descriptor;
    private final ByteArrayOutputStream out = new ByteArrayOutputStream();
    private String[] names;
    private int method;

    /**
     * Prepares it.
     *
     * @param descriptor of the constructor to change, or empty for all
     */
    ConstructorPatch(byte[] classFile, String descriptor) {
        this.in = ByteBuffer.wrap(classFile);
        this.descriptor = descriptor;
    }

    byte[] apply() {
        copy(POOL_OFFSET);
        copyPool();
        copy(6);
        copy(2 * copyShort());
        copyMembers(false);
        copyMembers(true);
        copy(in.remaining());
        return out.toByteArray();
    }

    private void copyPool() {
        int count = in.getShort() & 0xffff;
        names = new String[count];
        putShort(count + ENTRIES);
        for (int index = 1; index < count; index++) {
            int tag = in.get(in.position());
            if (tag == UTF8) {
                copy(1);
                int length = copyShort();
                names[index] = new String(in.array(), in.position(), length, StandardCharsets.UTF_8);
                copy(length);
            } else {
                copy(1 + lengthOf(tag));
                index += tag == 5 || tag == 6 ? 1 : 0; // a long or a double takes two places
            }
        }
        method = count + ENTRIES - 1;
        putUtf8("java/util/WarmstartInstances");
        putEntry(7, count);
        putUtf8("add");
        putUtf8("(Ljava/lang/Object;)V");
        putEntry(12, count + 2, count + 3);
        putEntry(10, count + 1, count + 4);
    }

    private static int lengthOf(int tag) {
        switch (tag) {
            case 5:
            case 6:
                return 8;
            case 7:
            case 8:
            case 16:
            case 19:
            case 20:
                return 2;
            case 15:
                return 3;
            default:
                return 4;
        }
    }

    private void copyMembers(boolean methods) {
        for (int left = copyShort(); left > 0; left--) {
            copy(2);
            boolean patched = "<init>".equals(names[copyShort()]) && methods;
            String type = names[copyShort()];
            patched &= descriptor.isEmpty() || descriptor.equals(type);
            for (int attributes = copyShort(); attributes > 0; attributes--) {
                boolean code = "Code".equals(names[copyShort()]);
                int length = in.getInt();
                if (code && patched) {
                    patch(length);
                } else {
                    putInt(length);
                    copy(length);
                }
            }
        }
    }

    private void patch(int length) {
        int codeLength = in.getInt(in.position() + 4);
        int last = in.position() + 8 + codeLength - 1;
        boolean returns = (in.get(last) & 0xff) == RETURN;
        putInt(returns ? length + CALL_LENGTH : length);
        if (returns) {
            copy(4);
            in.getInt();
            putInt(codeLength + CALL_LENGTH);
            copy(codeLength - 1);
            out.write(ALOAD_0);
            out.write(INVOKESTATIC);
            putShort(method);
        }
        copy(length - (returns ? 8 + codeLength - 1 : 0));
    }

    private void putUtf8(String text) {
        out.write(UTF8);
        putShort(text.length());
        out.writeBytes(text.getBytes(StandardCharsets.US_ASCII));
    }

    private void putEntry(int tag, int... indexes) {
        out.write(tag);
        for (int index : indexes) {
            putShort(index);
        }
    }

    private int copyShort() {
        int value = in.getShort() & 0xffff;
        putShort(value);
        return value;
    }

    private void copy(int length) {
        out.write(in.array(), in.position(), length);
        in.position(in.position() + length);
    }

    private void putShort(int value) {
        out.write(value >> 8);
        out.write(value);
    }

    private void putInt(int value) {
        putShort(value >>> 16);
        putShort(value);
    }
}
